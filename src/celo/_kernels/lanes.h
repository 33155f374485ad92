// As many numbers at a time as one register of the CPU holds: sixteen by AVX-512, eight by AVX2, else four.
//
// A wider vector would be legal, but lives in memory and is compared number by number.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace celo {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float V __attribute__((vector_size(4 * kLanes)));
typedef int32_t VI __attribute__((vector_size(4 * kLanes)));

inline V all(float x) { return x - V{}; }
inline VI lanes() {  // 0, 1, 2, ...
  VI lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane;
}

#if defined(__AVX512F__)
inline V load(const float* p) { return (V)_mm512_loadu_ps(p); }
inline void store(float* p, V x) { _mm512_storeu_ps(p, (__m512)x); }
inline V load(const float* p, int n) { return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
inline void store(float* p, V x, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x); }
inline V larger(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
inline V smaller(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
inline V rough_inverse_sqrt(V x) { return (V)_mm512_rsqrt14_ps((__m512)x); }  // 14 bits
inline float total(V x) { return _mm512_reduce_add_ps((__m512)x); }
#elif defined(__AVX2__)
inline V load(const float* p) { return (V)_mm256_loadu_ps(p); }
inline void store(float* p, V x) { _mm256_storeu_ps(p, (__m256)x); }
inline V load(const float* p, int n) { return (V)_mm256_maskload_ps(p, (__m256i)(lanes() < n)); }
inline void store(float* p, V x, int n) { _mm256_maskstore_ps(p, (__m256i)(lanes() < n), (__m256)x); }
inline V larger(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
inline V smaller(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
inline V rough_inverse_sqrt(V x) { return (V)_mm256_rsqrt_ps((__m256)x); }  // 12 bits
#else
inline V load(const float* p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, V x) { std::memcpy(p, &x, sizeof x); }
inline V load(const float* p, int n) {
  V x{};
  for (int i = 0; i < n; i++) x[i] = p[i];
  return x;
}
inline void store(float* p, V x, int n) {
  for (int i = 0; i < n; i++) p[i] = x[i];
}
inline V larger(V a, V b) { return a > b ? a : b; }
inline V smaller(V a, V b) { return a < b ? a : b; }
inline V rough_inverse_sqrt(V x) {  // all bits
  V y;
  for (int i = 0; i < kLanes; i++) y[i] = 1.0f / std::sqrt(x[i]);
  return y;
}
#endif
#if !defined(__AVX512F__)
inline float total(V x) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
#endif

inline V inverse_sqrt(V x) {  // by one step of Newton's method good to two ulps
  const V y = rough_inverse_sqrt(x);
  return y * (1.5f - 0.5f * x * y * y);
}
inline V exponential(V x) {  // 2^n e^r with |r| <= ln(2)/2, e^r by its series: good to an ulp or two
  x = smaller(larger(x, all(-87.0f)), all(88.0f));
  const V shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to a whole number
  const V n = shifted - 12582912.0f;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V y = all(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = (y * r) * r + r + 1.0f;
  return (V)((VI)y + ((((VI)shifted) - 0x4B400000) << 23));
}

// body(j, get, put, only) for every vector of n elements; in the last one `only` zeroes the lanes past the end.
template <typename Body>
inline void by_lanes(int64_t n, Body body) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    body(j, [](const float* p) { return load(p); }, [](float* p, V x) { store(p, x); }, [](V x) { return x; });
  if (const int rest = (int)(n - j); rest > 0) {
    const V there = (V)(lanes() < rest);
    body(j, [rest](const float* p) { return load(p, rest); }, [rest](float* p, V x) { store(p, x, rest); },
         [there](V x) { return (V)((VI)x & (VI)there); });
  }
}

}  // namespace celo
