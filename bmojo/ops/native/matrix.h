// Small matrices whose rows are filled up with zeros to whole vectors.

#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace bmojo {

// The next multiple of the lanes.
template <typename T>
constexpr int64_t whole(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Rows of `count` numbers into rows that are filled up with zeros.
template <typename T>
inline void fill_rows(T* to, const T* from, int64_t from_row, int64_t count, int64_t rows) {
  for (int64_t t = 0; t < rows; ++t, to += whole<T>(count), from += from_row) {
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, load(from + i));
    if (i < count) store(to + i, load_some(from + i, static_cast<int>(count - i)));
  }
}

// The inverse of fill_rows.
template <typename T>
inline void empty_rows(T* to, int64_t to_row, const T* from, int64_t count, int64_t rows) {
  for (int64_t t = 0; t < rows; ++t, to += to_row, from += whole<T>(count)) {
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, load(from + i));
    if (i < count) store_some(to + i, load(from + i), static_cast<int>(count - i));
  }
}

// Row t times by[t].
template <typename T>
inline void scale_rows(T* to, const T* from, int64_t row, const T* by, int64_t rows) {
  for (int64_t t = 0; t < rows; ++t, to += row, from += row) {
    for (int64_t i = 0; i < row; i += kLanes<T>) store(to + i, load(from + i) * by[t]);
  }
}

template <typename T>
inline void scale(T* x, T by, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<T>) store(x + i, load(x + i) * by);
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t count) {
  Vec<T> total{};
  for (int64_t i = 0; i < count; i += kLanes<T>) total += load(a + i) * load(b + i);
  return sum<T>(total);
}

// Of any number of them.
template <typename T>
inline T total(const T* x, int64_t count) {
  Vec<T> many{};
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) many += load(x + i);
  T rest = 0;
  for (; i < count; ++i) rest += x[i];
  return sum<T>(many) + rest;
}

// to[n, t] = from[t, n] for t < rows and n < columns; rows of either are filled up or not.
template <typename T>
inline void transpose(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t columns,
                      int64_t rows) {
  constexpr int64_t K = kLanes<T>;
  for (int64_t n = 0; n < columns; n += K) {
    for (int64_t t = 0; t < rows; t += K) {
      Vec<T> block[kLanes<T>];
      for (int64_t i = 0; i < K; ++i) {
        const T* row = from + (t + i) * from_row + n;
        if (t + i >= rows) block[i] = Vec<T>{};
        else if (n + K <= from_row) block[i] = load(row);
        else block[i] = load_some(row, static_cast<int>(columns - n));
      }
      transpose<T>(block);
      for (int64_t i = 0; i < std::min(K, columns - n); ++i) {
        T* row = to + (n + i) * to_row + t;
        if (t + K <= to_row) store(row, block[i]);
        else store_some(row, block[i], static_cast<int>(rows - t));
      }
    }
  }
}

}  // namespace bmojo
