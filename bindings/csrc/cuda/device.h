// The operations that the kernels are written in, for two compilers: nvcc compiles the kernels for the GPU, and a host
// compiler compiles the same functions for the CPU (host_twin.cpp), so that every bit and every address can be tested
// on a machine without a GPU. Only this file differs between the two.
//
// Everything is IEEE float32 with each operation rounded: -fmad=false on the device, -ffp-contract=off on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define RESTART_HD __host__ __device__ __forceinline__
#define RESTART_UNROLL _Pragma("unroll")
#else
#define RESTART_HD inline
#define RESTART_UNROLL
#endif

namespace restart::cuda {

RESTART_HD uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
#endif
}

RESTART_HD float float_of(uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float x;
  std::memcpy(&x, &u, 4);
  return x;
#endif
}

// The 64-bit product of two 32-bit numbers. In assembly, because nvcc widens both factors of the C++ first, and ptxas
// then adds the products of their zero upper halves: 5 instructions an element.
RESTART_HD void multiply_wide(uint32_t a, uint32_t b, uint32_t& low, uint32_t& high) {
#if defined(__CUDA_ARCH__)
  asm("{ .reg .u64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p; }" : "=r"(low), "=r"(high) : "r"(a), "r"(b));
#else
  const uint64_t p = static_cast<uint64_t>(a) * b;
  low = static_cast<uint32_t>(p), high = static_cast<uint32_t>(p >> 32);
#endif
}

// a·b + c where a·b is exact: one rounding and two are the same, so one instruction does the scheme's product and sum.
RESTART_HD float fma_exact(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return std::fmaf(a, b, c);
#endif
}

RESTART_HD float square_root(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return std::sqrt(x);
#endif
}

RESTART_HD float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

// max(|a|, |b|), or NaN if one of them is NaN: one instruction.
RESTART_HD float max_abs_nan(float a, float b) {
#if defined(__CUDA_ARCH__)
  float m;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(fabsf(a)), "f"(fabsf(b)));
  return m;
#else
  a = std::fabs(a), b = std::fabs(b);
  return a > b || a != a ? a : b;
#endif
}

RESTART_HD void reduce_min(int32_t* to, int32_t value) {
#if defined(__CUDA_ARCH__)
  atomicMin(to, value);
#else
  *to = value < *to ? value : *to;
#endif
}

// A word of two 16-bit floats; the low half is the element at the lower address.

struct BFloat16 {
  RESTART_HD static float low(uint32_t pair) { return float_of(pair << 16); }
  RESTART_HD static float high(uint32_t pair) { return float_of(pair & 0xffff0000u); }

  RESTART_HD static uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__)
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return round(low) | round(high) << 16;
#endif
  }

 private:
  static uint32_t round(float x) {
    const uint32_t u = bits_of(x);
    return x == x ? (u + 0x7fff + (u >> 16 & 1)) >> 16 : 0x7fc0;
  }
};

struct Float16 {
  RESTART_HD static float low(uint32_t pair) {
#if defined(__CUDA_ARCH__)
    float x;
    asm("{ .reg .f16 lo, hi; mov.b32 {lo, hi}, %1; cvt.f32.f16 %0, lo; }" : "=f"(x) : "r"(pair));
    return x;
#else
    return widen(pair & 0xffff);
#endif
  }

  RESTART_HD static float high(uint32_t pair) {
#if defined(__CUDA_ARCH__)
    float x;
    asm("{ .reg .f16 lo, hi; mov.b32 {lo, hi}, %1; cvt.f32.f16 %0, hi; }" : "=f"(x) : "r"(pair));
    return x;
#else
    return widen(pair >> 16);
#endif
  }

  RESTART_HD static uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__)
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return round(low) | round(high) << 16;
#endif
  }

 private:
  static float widen(uint32_t half) {
    const uint32_t sign = (half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest < 0x0400) return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24f));  // subnormal
    return float_of(sign | ((rest << 13) + (rest < 0x7c00 ? 0x38000000u : 0x70000000u)));
  }

  static uint32_t round(float x) {
    const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000) return sign | 0x7e00;
    if (rest >= 0x47800000) return sign | 0x7c00;  // 2¹⁶ and more: infinite
    if (rest < 0x38800000) return sign | static_cast<uint32_t>(std::nearbyint(float_of(rest) * 0x1p24f));
    return sign | (rest - 0x38000000 + 0x0fff + (rest >> 13 & 1)) >> 13;
  }
};

}  // namespace restart::cuda
