// x86-64 with AVX2, FMA and F16C: vectors of 256 bits. Compiled with -mavx2 -mfma -mf16c.
#include "vectors.h"

#if defined(__AVX2__)

#include <immintrin.h>

namespace restart::cpu {
namespace avx2_ {

RESTART_VECTORS(8)
constexpr int UNITS = 2;

inline F32 exact_fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 to_float(U32 v) {  // both halves are exact, so their sum is rounded once
    const F32 high = _mm256_cvtepi32_ps((__m256i)(v >> 16)), low = _mm256_cvtepi32_ps((__m256i)(v & 0xffffu));
    return _mm256_fmadd_ps(high, _mm256_set1_ps(0x1p16f), low);
}
inline F32 root(F32 v) { return _mm256_sqrt_ps(v); }
inline U64 multiply(U64 a, U64 b) { return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
inline U32 pairs(U64 a, U64 b) { return (U32)_mm256_blend_epi32((__m256i)a, (__m256i)(b << 32), 0xaa); }
inline F32 zip_low(F32 a, F32 b) { return _mm256_unpacklo_ps(a, b); }
inline F32 zip_high(F32 a, F32 b) { return _mm256_unpackhi_ps(a, b); }
inline U32 widen(U16 v) { return (U32)_mm256_cvtepu16_epi32((__m128i)v); }
inline void pack(void *to, U32 a, U32 b) {
    const __m256i packed = _mm256_packus_epi32((__m256i)a, (__m256i)b);  // in each 128 bits
    _mm256_storeu_si256((__m256i_u *)to, _mm256_permute4x64_epi64(packed, 0xd8));
}
inline U32 half_to_even(U32 u) { return u + 0x7fffu + ((u >> 16) & 1u); }
inline F32 from_half(U16 v) { return _mm256_cvtph_ps((__m128i)v); }
inline U16 to_half(F32 v) { return (U16)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

#include "kernels.inl"

}  // namespace avx2_

const Kernels avx2{"avx2", avx2_::run_row, avx2_::normal, avx2_::triad, avx2_::weigh};

}  // namespace restart::cpu

#else

const restart::cpu::Kernels restart::cpu::avx2{};

#endif
