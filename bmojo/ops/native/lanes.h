// Sums across lanes, several vectors at a time.

#pragma once

#include <type_traits>
#include <utility>

#include "simd.h"

namespace bmojo {

// Lanes with the bit kStep clear hold a[lane] + a[lane ^ kStep], the others the same of b.
template <typename T, int kStep, int... lane>
inline Vec<T> fold_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  constexpr int kOther = kLanes<T>;
#if defined(__clang__)
  const Vec<T> own =
      __builtin_shufflevector(a, b, (lane & kStep ? lane + kOther : lane)...);
  const Vec<T> opposite = __builtin_shufflevector(
      a, b, (lane & kStep ? (lane ^ kStep) + kOther : lane ^ kStep)...);
#else  // GCC has had the above since version 12
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
  typedef Index Places __attribute__((vector_size(kBytes)));
  const Vec<T> own =
      __builtin_shuffle(a, b, Places{(lane & kStep ? lane + kOther : lane)...});
  const Vec<T> opposite = __builtin_shuffle(
      a, b, Places{(lane & kStep ? (lane ^ kStep) + kOther : lane ^ kStep)...});
#endif
  return own + opposite;
}

// The sums of kLanes vectors, one in each lane; `v` is overwritten.
template <typename T, int kStep = 1>
inline Vec<T> sums(Vec<T>* v) {
  if constexpr (kStep == kLanes<T>) {
    return v[0];
  } else {
    for (int i = 0; i < kLanes<T>; i += 2 * kStep) {
      v[i] = fold_lanes<T, kStep>(v[i], v[i + kStep],
                                  std::make_integer_sequence<int, kLanes<T>>{});
    }
    return sums<T, 2 * kStep>(v);
  }
}

}  // namespace bmojo
