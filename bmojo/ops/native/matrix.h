// Small matrices in the caches, whose rows are filled up with zeros to whole vectors.

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

// The numbers of `v`, zeros where they are not finite; `lost` is no longer zero if any was not.
template <typename T>
inline Vec<T> finite(Vec<T> v, Vec<T>& lost) {
  const Vec<T> nothing = v - v, kept = nothing == 0 ? v : Vec<T>{};
  lost += nothing;
  return kept;
}

// The same of `count` numbers, filled up to whole vectors; returns whether all were finite.
template <typename T>
inline bool clear(T* x, int64_t count) {
  Vec<T> lost{};
  for (int64_t i = 0; i < count; i += kLanes<T>) store(x + i, finite<T>(load(x + i), lost));
  return sum<T>(lost) == 0;
}

// Rows of `count` numbers into rows that are filled up with zeros. What is not finite becomes zero,
// and sets its row's number of `lost` to one.
template <typename T>
inline void fill_rows(T* to, const T* from, int64_t from_row, int64_t count, int64_t rows,
                      T* lost = nullptr) {
  for (int64_t t = 0; t < rows; ++t, to += whole<T>(count), from += from_row) {
    Vec<T> any{};
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) store(to + i, finite<T>(load(from + i), any));
    if (i < count) {
      store(to + i, finite<T>(load_some(from + i, static_cast<int>(count - i)), any));
    }
    if (lost != nullptr && sum<T>(any) != 0) lost[t] = 1;
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

// Rows of C that are summed in registers at a time.
inline constexpr int kRows = kRegisters == 32 ? 8 : 4;

template <typename T, int rows, int vectors>
inline void product_tile(int64_t depth, const T* a, int64_t a_row, int64_t a_column, const T* b,
                         int64_t b_row, T* c, int64_t c_row, bool add) {
  Vec<T> sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      sums[i][v] = add ? load(c + i * c_row + v * kLanes<T>) : Vec<T>{};
  for (int64_t s = 0; s < depth; ++s) {
    Vec<T> row[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) row[v] = load(b + v * kLanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vec<T> x = splat(a[i * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[i][v] += x * row[v];
    }
    a += a_column;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + i * c_row + v * kLanes<T>, sums[i][v]);
}

template <typename T, int rows>
inline void product_rows(int64_t columns, int64_t depth, const T* a, int64_t a_row,
                         int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row,
                         bool add) {
  constexpr int wide = 2 * kLanes<T>;
  int64_t j = 0;
  for (; j + wide <= columns; j += wide)
    product_tile<T, rows, 2>(depth, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
  for (; j < columns; j += kLanes<T>)
    product_tile<T, rows, 1>(depth, a, a_row, a_column, b + j, b_row, c + j, c_row, add);
}

// C = A B, or C += A B: C is (rows, columns), A (rows, depth) at any strides, B (depth, columns).
// `columns` is a multiple of the lanes; rows of B and C are contiguous.
template <typename T>
inline void product(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row,
                    int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, bool add) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows)
    product_rows<T, kRows>(columns, depth, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row,
                           c_row, add);
  for (; i + 2 <= rows; i += 2)
    product_rows<T, 2>(columns, depth, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row,
                       c_row, add);
  if (i < rows)
    product_rows<T, 1>(columns, depth, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row,
                       c_row, add);
}

}  // namespace bmojo
