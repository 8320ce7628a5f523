// Any CPU: vectors of 128 bits, which are SSE2 on x86-64 and NEON on ARM.
#include "vectors.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace restart::cpu {
namespace portable_ {

RESTART_VECTORS(4)
constexpr int UNITS = 2;

inline F32 exact_fma(F32 a, F32 b, F32 c) { return a * b + c; }
inline F32 to_float(U32 v) { return __builtin_convertvector(v, F32); }
inline F32 root(F32 v) {
    return F32{__builtin_sqrtf(v[0]), __builtin_sqrtf(v[1]), __builtin_sqrtf(v[2]), __builtin_sqrtf(v[3])};
}
inline U64 multiply(U64 a, U64 b) {
#if defined(__SSE2__)
    return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}
inline U32 pairs(U64 a, U64 b) { return (U32)((a & 0xffffffffu) | (b << 32)); }
inline F32 zip_low(F32 a, F32 b) { return F32{a[0], b[0], a[1], b[1]}; }
inline F32 zip_high(F32 a, F32 b) { return F32{a[2], b[2], a[3], b[3]}; }

inline U32 widen(U16 v) { return __builtin_convertvector(v, U32); }
inline U16 narrow(U32 v) { return __builtin_convertvector(v, U16); }
inline void pack(void *to, U32 a, U32 b) {
    const U16 halves[] = {narrow(a), narrow(b)};
    __builtin_memcpy(to, halves, sizeof halves);
}
inline U32 half_to_even(U32 u) { return u + 0x7fffu + ((u >> 16) & 1u); }

inline F32 from_half(U16 v) {
    const U32 u = widen(v);
    const U32 size = (u & 0x7fffu) << 13;
    const F32 scaled = (F32)size * 0x1p112f;  // exact, subnormals too
    return (F32)((size >= 0x0f800000u ? size | 0x7f800000u : (U32)scaled) | ((u & 0x8000u) << 16));
}

inline U16 to_half(F32 v) {
    const U32 u = (U32)v, size = u & 0x7fffffffu;
    const U32 even = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    // The last bit of 0.5f is the smallest float16, so the sum rounds.
    const U32 tiny = (U32)((F32)size + 0.5f) - 0x3f000000u;
    U32 half = size < 0x38800000u ? tiny : even;
    half = size >= 0x47800000u ? 0x7c00u - U32{} : half;
    half = size > 0x7f800000u ? 0x7e00u - U32{} : half;
    return narrow(half | ((u >> 16) & 0x8000u));
}

#include "kernels.inl"

}  // namespace portable_

const Kernels portable{"portable", portable_::run_row, portable_::normal, portable_::triad, portable_::weigh};

}  // namespace restart::cpu
