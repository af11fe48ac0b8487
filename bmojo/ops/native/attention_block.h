// Attention of a block of queries to tiles of keys, and its gradient, in cache.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "exp2.h"
#include "matrix.h"

namespace bmojo {

inline constexpr int kKeys = 64;     // keys of a tile
inline constexpr int kQueries = 64;  // rows of a block, at most: queries times heads of a group

// Keys and values in tiles of kKeys, zeros behind the last one. All rows are `width` long, a
// multiple of the lanes. Parts that a pass does not need are null.
template <typename T>
struct Tiles {
  int64_t width = 0;
  T* k_across = nullptr;  // (tiles, width, kKeys)
  T* k = nullptr;         // (tiles kKeys, width)
  T* v_across = nullptr;
  T* v = nullptr;
  T* dk = nullptr;  // sums of gradients, as k
  T* dv = nullptr;

  static int64_t count(int64_t keys) { return (keys + kKeys - 1) / kKeys; }

  // `row(i)` is the i-th key or value, `real` elements long; what is not finite becomes zero, since
  // weights of zero would not stop it. Returns whether all was finite.
  template <typename Row>
  static bool pack(int64_t keys, int64_t real, int64_t width, T* rows, T* across, const Row& row) {
    constexpr int lanes = kLanes<T>;
    Vec<T> lost{};
    for (int64_t i = 0; i < count(keys) * kKeys; i += lanes) {
      for (int64_t p = 0; p < width; p += lanes) {
        const int some = static_cast<int>(std::min<int64_t>(lanes, real - p));
        Vec<T> square[lanes];
        for (int64_t j = 0; j < lanes; ++j) {
          if (i + j >= keys) square[j] = Vec<T>{};
          else if (some == lanes) square[j] = finite<T>(load(row(i + j) + p), lost);
          else square[j] = finite<T>(load_some(row(i + j) + p, some), lost);
          if (rows != nullptr) store(rows + (i + j) * width + p, square[j]);
        }
        if (across == nullptr) continue;
        transpose<T>(square);
        T* to = across + (i / kKeys * width + p) * kKeys + i % kKeys;
        for (int j = 0; j < lanes; ++j) store(to + j * kKeys, square[j]);
      }
    }
    return sum<T>(lost) == 0;
  }
};

// One block: rows of queries, and what is known of them.
template <typename T>
struct Block {
  int64_t rows = 0;
  int64_t width = 0;     // of a head, a multiple of the lanes
  T* q = nullptr;        // (rows, width), divided by the root of the width
  T* out = nullptr;      // (rows, width)
  T* peak = nullptr;     // (rows), the largest score so far
  T* total = nullptr;    // (rows), sum of exp(score - peak)
  T* scores = nullptr;   // (kQueries, kKeys)
  T* d_out = nullptr;    // (rows, width); the ones below are of the backward pass
  T* log = nullptr;      // (rows), log2 of the total
  T* delta = nullptr;    // (rows), d_out . out
  T* d_scores = nullptr; // (kQueries, kKeys)
  T* dq = nullptr;       // (rows, width)
};

// Scores of a tile's columns [from, to). Where some are masked, `hide(i, scores)` overwrites what
// the i-th of the block's tokens does not see by -infinity.
template <typename T, typename Hide>
inline void score(const Block<T>& block, const Tiles<T>& tiles, int64_t tile, int from, int to,
                  bool masked, int64_t tokens, const Hide& hide) {
  const T* across = tiles.k_across + tile * block.width * kKeys;
  product<T>(block.rows, to - from, block.width, block.q, block.width, 1, across + from, kKeys,
             block.scores + from, kKeys, false);
  if (!masked) return;
  for (int64_t r = 0; r < block.rows; r += tokens)
    for (int64_t i = 0; i < tokens; ++i) hide(i, block.scores + (r + i) * kKeys);
}

// Adds a tile's columns [from, to), a multiple of the lanes, whose scores are there, to the output.
template <typename T>
inline void look(Block<T>& block, const Tiles<T>& tiles, int64_t tile, int from, int to) {
  for (int64_t r = 0; r < block.rows; ++r) {
    T* scores = block.scores + r * kKeys;
    Vec<T> most = load(scores + from);
    for (int c = from + kLanes<T>; c < to; c += kLanes<T>) {
      const Vec<T> x = load(scores + c);
      most = x > most ? x : most;
    }
    const T peak = std::max(block.peak[r], largest<T>(most));
    Vec<T> total{};
    for (int c = from; c < to; c += kLanes<T>) {
      // The difference first: a large score times log2 e would be rounded by more than it.
      const Vec<T> weight = power_of_two<T>((load(scores + c) - peak) * T(kLog2E));
      store(scores + c, weight);
      total += weight;
    }
    if (peak > block.peak[r]) {
      const T kept = std::exp(block.peak[r] - peak);
      block.total[r] *= kept;
      T* out = block.out + r * block.width;
      for (int64_t p = 0; p < block.width; p += kLanes<T>) store(out + p, load(out + p) * kept);
      block.peak[r] = peak;
    }
    block.total[r] += sum<T>(total);
  }
  product<T>(block.rows, block.width, to - from, block.scores + from, kKeys, 1,
             tiles.v + (tile * kKeys + from) * block.width, block.width, block.out, block.width,
             true);
}

// Adds the gradients that pass through a tile's columns [from, to), whose scores are there.
template <typename T>
inline void look_back(Block<T>& block, const Tiles<T>& tiles, int64_t tile, int from, int to) {
  const int64_t width = block.width, first = (tile * kKeys + from) * width;
  const T* v_across = tiles.v_across + tile * width * kKeys;
  product<T>(block.rows, to - from, width, block.d_out, width, 1, v_across + from, kKeys,
             block.d_scores + from, kKeys, false);
  for (int64_t r = 0; r < block.rows; ++r) {
    T *scores = block.scores + r * kKeys, *d_scores = block.d_scores + r * kKeys;
    for (int c = from; c < to; c += kLanes<T>) {
      const Vec<T> exponent = (load(scores + c) - block.peak[r]) * T(kLog2E) - block.log[r];
      const Vec<T> weight = power_of_two<T>(exponent);
      store(scores + c, weight);
      store(d_scores + c, weight * (load(d_scores + c) - block.delta[r]));
    }
  }
  product<T>(to - from, width, block.rows, block.scores + from, 1, kKeys, block.d_out, width,
             tiles.dv + first, width, true);
  product<T>(to - from, width, block.rows, block.d_scores + from, 1, kKeys, block.q, width,
             tiles.dk + first, width, true);
  product<T>(block.rows, width, to - from, block.d_scores + from, kKeys, 1, tiles.k + first, width,
             block.dq, width, true);
}

}  // namespace bmojo
