// Small matrix products whose operands lie in the caches.

#pragma once

#include <cstdint>

#include "simd.h"

namespace bmojo {

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
