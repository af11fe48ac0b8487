// Powers of two, for decays: exp(dt a) is 2^(dt (a log2 e)), and log2 e is multiplied in once.

#pragma once

#include "simd.h"

#if defined(__AVX512DQ__)
#include <immintrin.h>
#endif

namespace bmojo {

inline constexpr double kLog2E = 1.44269504088896340736;

// kTerms: of (2^r - 1) / r on [0, 1], the highest power first.
template <typename T>
struct PowerOfTwo;

// Least largest error of the power: 2e-9 of it.
template <>
struct PowerOfTwo<float> {
  typedef int32_t Whole __attribute__((vector_size(kBytes)));
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to a whole
  static constexpr float kLeast = -126.0f, kMost = 127.0f;
  static constexpr int kFraction = 23;
  static constexpr float kTerms[] = {2.161291610e-4f, 1.246784613e-3f, 9.675451598e-3f,
                                     5.548528060e-2f, 2.402293056e-1f, 6.931470444e-1f};
};

// Interpolated at Chebyshev's points: 1.2e-19 of it.
template <>
struct PowerOfTwo<double> {
  typedef int64_t Whole __attribute__((vector_size(kBytes)));
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLeast = -1022.0, kMost = 1023.0;
  static constexpr int kFraction = 52;
  static constexpr double kTerms[] = {
      3.5440421858907e-11,     4.17505280589935886e-10, 7.09679519777703998e-9,
      1.017401785226927e-7,    1.32157463441484434e-6,  1.52527227928132238e-5,
      1.54035307002398686e-4,  1.33335581410155709e-3,  9.61812910768474737e-3,
      5.55041086648185607e-2,  2.40226506959100776e-1,  6.93147180559945309e-1};
};

#if defined(__AVX512DQ__)
// What is left of x after the next whole number below; 0 of infinities.
inline Vec<float> remainder(Vec<float> x) { return (Vec<float>)_mm512_reduce_ps((__m512)x, 9); }
inline Vec<double> remainder(Vec<double> x) { return (Vec<double>)_mm512_reduce_pd((__m512d)x, 9); }

// p times two to the next whole number below x.
inline Vec<float> scaled(Vec<float> p, Vec<float> x) {
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)x);
}
inline Vec<double> scaled(Vec<double> p, Vec<double> x) {
  return (Vec<double>)_mm512_scalef_pd((__m512d)p, (__m512d)x);
}
#endif

// 2^x; exactly 1 for 0, and 0 for -infinity. Below the range of normal numbers it is rounded or 0,
// above 2^127 (2^1023) it is that or infinite.
template <typename T>
inline Vec<T> power_of_two(Vec<T> x) {
  using Of = PowerOfTwo<T>;
#if defined(__AVX512DQ__)
  const Vec<T> r = remainder(x);
#else
  const Vec<T> least = splat<T>(Of::kLeast), most = splat<T>(Of::kMost), round = splat(Of::kRound);
  const Vec<T> low = least > x ? least : x;
  const Vec<T> inside = most < low ? most : low;
  const Vec<T> shifted = (inside - T(0.5)) + round;
  const Vec<T> r = inside - (shifted - round);
#endif
  Vec<T> p = splat(Of::kTerms[0]);
  for (std::size_t i = 1; i < sizeof Of::kTerms / sizeof(T); ++i) p = p * r + Of::kTerms[i];
  p = p * r + T(1);
#if defined(__AVX512DQ__)
  return scaled(p, x);
#else
  typename Of::Whole bits, exponent;
  std::memcpy(&bits, &p, sizeof bits);
  std::memcpy(&exponent, &shifted, sizeof exponent);
  bits += exponent << Of::kFraction;  // the whole part stands in the low bits of `shifted`
  Vec<T> result;
  std::memcpy(&result, &bits, sizeof result);
  return x < least ? Vec<T>{} : result;
#endif
}

}  // namespace bmojo
