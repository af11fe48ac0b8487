// One chunk of Mamba-2's recurrence; see ssd.cc.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "exp2.h"
#include "matrix.h"
#include "scratch.h"

namespace bmojo::ssd {

constexpr int64_t kStrip = 16;  // rows of a triangle that are multiplied at a time

// product(), a panel of columns after the other: the part of `b` that all rows read stays near.
template <typename T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row,
              int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, bool add) {
  constexpr int64_t panel = 2 * kLanes<T>;
  for (int64_t i = 0; i < columns; i += panel) {
    product(rows, std::min(panel, columns - i), depth, a, a_row, a_column, b + i, b_row, c + i,
            c_row, add);
  }
}

struct Sizes {
  int64_t rows, length, heads, width, states, chunk, chunks;
  int64_t places;              // chunks whose states are stored: all of them or none
  int64_t wide, deep, across;  // width, states and chunk, filled up to whole vectors
};

// Where the operands are; see the handlers for their shapes.
template <typename T>
struct Operands {
  const T *x, *dt, *A, *B, *C;
  const bool* start;  // null: no document starts
};

// Tokens of one chunk, for all heads and for one of them.
//
// A triangle M (chunk, across) is lower: of its rows what lies beyond the strip's end is not read.
template <typename T>
struct Chunk {
  const Sizes s;
  const Operands<T> in;
  const int64_t row;
  int64_t at, tokens;
  T *B, *C;         // (chunk, deep)
  T *turned;        // B^T (N, across)
  T *scores;        // C B^T, a triangle
  T *decays;        // what is left at t of what came in at s, a triangle
  T *sums, *since;  // exponents of a row of decays; what is left at t of the first state
  T *to_end;        // what is left at the end of what came in at s
  T *dt;            // (chunk)
  T *x, *inner;     // (chunk, wide); inner = dt x
  T *of_all, *lost;  // 1 where B or C, and where these, x or dt of a head are not finite

  static int64_t size(const Sizes& s) {
    return 2 * s.chunk * (s.deep + s.across + s.wide) + (s.states + 6) * s.across;
  }
  static constexpr int kArrays = 13;

  Chunk(const Sizes& sizes, const Operands<T>& operands, int64_t b, Scratch<T>& scratch)
      : s(sizes), in(operands), row(b) {
    B = scratch.take(s.chunk * s.deep), C = scratch.take(s.chunk * s.deep);
    turned = scratch.take(s.states * s.across), scores = scratch.take(s.chunk * s.across);
    decays = scratch.take(s.chunk * s.across);
    sums = scratch.take(s.across), since = scratch.take(s.across);
    to_end = scratch.take(s.across), dt = scratch.take(s.across);
    x = scratch.take(s.chunk * s.wide), inner = scratch.take(s.chunk * s.wide);
    of_all = scratch.take(s.across), lost = scratch.take(s.across);
  }

  int64_t token(int64_t t) const { return row * s.length + at + t; }
  int64_t strip(int64_t t) const { return std::min(kStrip, tokens - t); }
  // The end of the strip of row t.
  int64_t edge(int64_t t) const { return whole<T>(std::min(tokens, (t / kStrip + 1) * kStrip)); }
  const T* of_head(const T* all, int64_t head) const {
    return all + (token(0) * s.heads + head) * s.width;
  }
  T* of_head(T* all, int64_t head) const { return all + (token(0) * s.heads + head) * s.width; }
  bool starts(int64_t t) const { return in.start && in.start[token(t)]; }

  void begin(int64_t chunk) {
    at = chunk * s.chunk;
    tokens = std::min(s.chunk, s.length - at);
    std::fill_n(of_all, tokens, T(0));
    fill_rows(B, in.B + token(0) * s.states, s.states, s.states, tokens, of_all);
    fill_rows(C, in.C + token(0) * s.states, s.states, s.states, tokens, of_all);
    transpose(turned, s.across, B, s.deep, s.states, tokens);
    products(C, s.deep, s.states, turned, scores);
  }

  void take(int64_t head) {
    const T rate = in.A[head] * T(kLog2E), nothing = -std::numeric_limits<T>::infinity();
    std::copy_n(of_all, tokens, lost);
    fill_rows(x, of_head(in.x, head), s.heads * s.width, s.width, tokens, lost);
    std::fill(sums, sums + s.across, nothing);
    std::fill(since, since + s.across, nothing);
    T sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      dt[t] = in.dt[token(t) * s.heads + head];
      if (!std::isfinite(dt[t])) dt[t] = 0, lost[t] = 1;
      const T step = starts(t) ? nothing : dt[t] * rate;
      since[t] = sum += step;
      // Each exponent is a sum of its own: as differences of one running sum small ones beside
      // large ones would drown in rounding.
      T* to = decays + t * s.across;
      for (int64_t i = 0; i < edge(t); i += kLanes<T>) store(sums + i, load(sums + i) + step);
      sums[t] = 0;
      for (int64_t i = 0; i < edge(t); i += kLanes<T>) {
        store(to + i, power_of_two<T>(load(sums + i)));
      }
    }
    for (int64_t i = 0; i < s.across; i += kLanes<T>) {
      store(since + i, power_of_two<T>(load(since + i)));
    }
    std::copy_n(decays + (tokens - 1) * s.across, edge(tokens - 1), to_end);
    scale_rows(inner, x, s.wide, dt, tokens);
  }

  // What is left at the end of the first state.
  T kept() const { return since[tokens - 1]; }

  // The triangle a b of a (tokens, depth) and b (depth, across).
  void products(const T* a, int64_t a_row, int64_t depth, const T* b, T* triangle) const {
    for (int64_t t = 0; t < tokens; t += kStrip) {
      multiply(strip(t), edge(t), depth, a + t * a_row, a_row, int64_t(1), b, s.across,
              triangle + t * s.across, s.across, false);
    }
  }

  // to += M from, rows of which have `columns`.
  void lower(const T* triangle, const T* from, int64_t columns, T* to) const {
    for (int64_t t = 0; t < tokens; t += kStrip) {
      multiply(strip(t), columns, t + strip(t), triangle + t * s.across, s.across, int64_t(1), from,
              columns, to + t * columns, columns, true);
    }
  }

  // to += M^T from.
  void upper(const T* triangle, const T* from, int64_t columns, T* to) const {
    for (int64_t t = 0; t < tokens; t += kStrip) {
      multiply(strip(t), columns, tokens - t, triangle + t * s.across + t, int64_t(1), s.across,
              from + t * columns, columns, to + t * columns, columns, true);
    }
  }
};

}  // namespace bmojo::ssd
