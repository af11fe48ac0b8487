// Sums across lanes, several vectors at a time.

#pragma once

#include "simd.h"

namespace bmojo {

// Lanes with the bit kStep clear hold a[lane] + a[lane ^ kStep], the others the same of b.
template <typename T, int kStep, int... lane>
inline Vec<T> fold_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  constexpr int kOther = kLanes<T>;
  using Own = std::integer_sequence<int, (lane & kStep ? lane + kOther : lane)...>;
  using Opposite =
      std::integer_sequence<int, (lane & kStep ? (lane ^ kStep) + kOther : lane ^ kStep)...>;
  return shuffle<T>(a, b, Own{}) + shuffle<T>(a, b, Opposite{});
}

// The sums of kLanes vectors, one in each lane; `v` is overwritten.
template <typename T, int kStep = 1>
inline Vec<T> sums(Vec<T>* v) {
  if constexpr (kStep == kLanes<T>) {
    return v[0];
  } else {
    for (int i = 0; i < kLanes<T>; i += 2 * kStep) {
      v[i] = fold_lanes<T, kStep>(v[i], v[i + kStep], Lanes<T>{});
    }
    return sums<T, 2 * kStep>(v);
  }
}

}  // namespace bmojo
