// Vectors as wide as the machine's registers, for kernels written once for float and double.
//
// GCC's and Clang's vector types: a + b, a > b ? a : b and so on act on every lane.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace bmojo {

#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
inline constexpr int kRegisters = 32;
#elif defined(__AVX__)
inline constexpr int kBytes = 32;
inline constexpr int kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int kBytes = 16;
inline constexpr int kRegisters = 32;
#else
inline constexpr int kBytes = 16;
inline constexpr int kRegisters = 16;
#endif

template <typename T>
struct Simd {
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));
  typedef T Vector __attribute__((vector_size(kBytes)));
};

template <typename T>
using Vec = typename Simd<T>::Vector;

template <typename T>
inline constexpr int kLanes = Simd<T>::kLanes;

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// The first `count` lanes; the others are zero.
template <typename T>
inline Vec<T> load_some(const T* from, int count) {
  Vec<T> v{};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
}

template <typename T>
inline void store_some(T* to, Vec<T> v, int count) {
  std::memcpy(to, &v, count * sizeof(T));
}

template <typename T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};  // x + 0 would have to be computed, for the sake of -0
}

// Lanes of two vectors, by number: those of b follow those of a.
template <typename T, int... lane>
inline Vec<T> shuffle(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, lane...);
}

template <typename T>
using Lanes = std::make_integer_sequence<int, kLanes<T>>;

// Every lane combined with the one `by` further on, round.
template <typename T, int by, typename Combine, int... lane>
inline Vec<T> with_further(Vec<T> v, const Combine& combine, std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
  return combine(v, shuffle<T>(v, v, std::integer_sequence<int, (lane + by) % count...>{}));
}

template <typename T, int by = kLanes<T> / 2, typename Combine>
inline T reduce(Vec<T> v, const Combine& combine) {
  if constexpr (by == 0) {
    return v[0];
  } else {
    return reduce<T, by / 2>(with_further<T, by>(v, combine, Lanes<T>{}), combine);
  }
}

template <typename T>
inline T sum(Vec<T> v) {
  return reduce<T>(v, [](Vec<T> a, Vec<T> b) { return a + b; });
}

template <typename T>
inline T largest(Vec<T> v) {
  return reduce<T>(v, [](Vec<T> a, Vec<T> b) { return a > b ? a : b; });
}

template <typename T, int step, int... lane>
inline void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, lane...>) {
  constexpr int count = sizeof...(lane);
  const Vec<T> upper = shuffle<T>(
      a, b, std::integer_sequence<int, (lane & step ? count + lane - step : lane)...>{});
  b = shuffle<T>(a, b, std::integer_sequence<int, (lane & step ? count + lane : lane + step)...>{});
  a = upper;
}

// Rows become columns, in a square of vectors.
template <typename T, int step = 1>
inline void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (step < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & step)) exchange<T, step>(rows[i], rows[i + step], Lanes<T>{});
    transpose<T, 2 * step>(rows);
  }
}

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
