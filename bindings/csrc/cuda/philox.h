// Scheme philox-v1: the normals of one counter. restart_kernels/philox/coefficients.py defines it; the rewrites, which
// keep every bit, are those of restart_kernels/philox/triton.py.
#pragma once

#include "device.h"
#include "restart_scheme.h"

namespace restart::cuda {

// Philox4x32: counter w and key (k0, k1); w becomes the four words.
RESTART_HD void philox(uint32_t (&w)[4], uint32_t k0, uint32_t k1) {
  RESTART_UNROLL
  for (uint32_t round = 0; round < scheme::ROUNDS; ++round) {
    uint32_t low0, high0, low1, high1;
    multiply_wide(w[0], scheme::MULTIPLIER_0, low0, high0);
    multiply_wide(w[2], scheme::MULTIPLIER_1, low1, high1);
    w[0] = high1 ^ w[1] ^ k0;
    w[1] = low1;
    w[2] = high0 ^ w[3] ^ k1;
    w[3] = low0;
    k0 += scheme::WEYL_0;
    k1 += scheme::WEYL_1;
  }
}

// ((A[N−1]·x + A[N−2])·x + …)·x + A[0], every operation rounded. A is a template argument because device code may use
// the values of a host array but not its address.
template <const auto& A, int I = 0>
RESTART_HD float horner(float x) {
  constexpr float a = A[I];
  if constexpr (I + 1 == sizeof(A) / sizeof(A[0])) {
    return a;
  } else {
    return horner<A, I + 1>(x) * x + a;
  }
}

// The normals (r cos, r sin) of two words.
RESTART_HD void box_muller(uint32_t wa, uint32_t wb, float& z0, float& z1) {
  constexpr float LN2_HI = scheme::LN2_HI * 0x1p-23f, LN2_LO = scheme::LN2_LO * 0x1p-23f;
  const float u = fma_exact(static_cast<float>(wa), scheme::U_SCALE, scheme::U_SHIFT);
  const uint32_t bits = bits_of(u);
  const uint32_t e23 = (bits - scheme::SQRT_HALF_BITS) & 0xff800000u;  // the exponent times 2²³
  const float f = 1.0f - float_of(bits - e23);
  const float e = static_cast<float>(static_cast<int32_t>(e23));
  const float r = square_root(fma_exact(e, LN2_HI, f * horner<scheme::LN>(f) + e * LN2_LO));

  const float t = static_cast<float>(static_cast<int32_t>(wb << 2)) * scheme::T_SCALE;
  const float v = t * t;
  const float s = t * horner<scheme::SIN>(v);
  const float c = horner<scheme::COS>(v);
  const uint32_t q = wb + 0x20000000u;  // bit 30: odd quadrant, bit 31: second half turn
  const bool odd = (q & 0x40000000u) != 0;
  const float signed_r = float_of(bits_of(r) ^ (q & 0x80000000u));
  z0 = signed_r * (odd ? -s : c);
  z1 = signed_r * (odd ? c : s);
}

// The four normals of counter (quad, draw, stream, 0).
RESTART_HD void normal4(uint32_t quad, uint32_t draw, uint32_t stream, uint64_t seed, float (&z)[4]) {
  uint32_t w[4] = {quad, draw, stream, 0};
  philox(w, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  box_muller(w[0], w[1], z[0], z[1]);
  box_muller(w[2], w[3], z[2], z[3]);
}

}  // namespace restart::cuda
