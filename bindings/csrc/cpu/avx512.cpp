// x86-64 with AVX-512 F, BW, DQ and VL: vectors of 512 bits. Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl.
#include "vectors.h"

#if defined(__AVX512F__)

#include <immintrin.h>

namespace restart::cpu {
namespace avx512_ {

RESTART_VECTORS(16)
constexpr int UNITS = 4;

inline F32 exact_fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 to_float(U32 v) { return _mm512_cvtepu32_ps((__m512i)v); }
inline F32 root(F32 v) { return _mm512_sqrt_ps(v); }
inline U64 multiply(U64 a, U64 b) { return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b); }
inline U32 pairs(U64 a, U64 b) {
    return (U32)_mm512_mask_shuffle_epi32((__m512i)a, 0xaaaa, (__m512i)b, _MM_PERM_CCAA);
}
inline F32 zip_low(F32 a, F32 b) { return _mm512_unpacklo_ps(a, b); }
inline F32 zip_high(F32 a, F32 b) { return _mm512_unpackhi_ps(a, b); }
inline U32 widen(U16 v) { return (U32)_mm512_cvtepu16_epi32((__m256i)v); }
inline void pack(void *to, U32 a, U32 b) {
    const __m512i packed = _mm512_packus_epi32((__m512i)a, (__m512i)b);  // in each 128 bits
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, packed));
}
inline U32 half_to_even(U32 v) {
    const __m512i u = (__m512i)v, up = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    return (U32)_mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1));
}
inline F32 from_half(U16 v) { return _mm512_cvtph_ps((__m256i)v); }
inline U16 to_half(F32 v) { return (U16)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

#include "kernels.inl"

}  // namespace avx512_

const Kernels avx512{"avx512", avx512_::run_row, avx512_::normal, avx512_::triad, avx512_::weigh};

}  // namespace restart::cpu

#else

const restart::cpu::Kernels restart::cpu::avx512{};

#endif
