// The normals of scheme philox-v1. Mirrors restart_kernels/philox/coefficients.py bit for bit.

// Horner from the highest power down, for N chains side by side: a single chain waits 8 cycles for each power.
template <int N, int POWERS>
INLINE void horner(F32 (&p)[N], const float (&a)[POWERS], const F32 (&x)[N]) {
    EACH p[i] = x[i] * a[POWERS - 1] + a[POWERS - 2];
    UNROLL for (int k = POWERS - 3; k >= 0; --k) EACH p[i] = p[i] * x[i] + a[k];
}

// The normals (r cos, r sin) of two words. The rewrites are those of philox/triton.py and keep every bit.
template <int N>
INLINE void box_muller(const U32 (&wa)[N], const U32 (&wb)[N], F32 (&z0)[N], F32 (&z1)[N]) {
    F32 f[N], e[N], r[N];
    EACH {
        const F32 u = exact_fma(to_float(wa[i]), all(scheme::U_SCALE), all(scheme::U_SHIFT));
        const I32 e23 = bits<I32>((bits<U32>(u) - scheme::SQRT_HALF_BITS) & 0xff800000u);
        f[i] = 1.0f - bits<F32>(bits<I32>(u) - e23);
        e[i] = __builtin_convertvector(e23, F32);
    }
    horner(r, scheme::LN, f);
    EACH r[i] = f[i] * r[i] + e[i] * (scheme::LN2_LO * 0x1p-23f);
    EACH r[i] = root(exact_fma(e[i], all(scheme::LN2_HI * 0x1p-23f), r[i]));

    F32 t[N], v[N], sin[N], cos[N];
    EACH t[i] = __builtin_convertvector(bits<I32>(wb[i] << 2), F32) * scheme::T_SCALE;
    EACH v[i] = t[i] * t[i];
    horner(sin, scheme::SIN, v);
    horner(cos, scheme::COS, v);
    EACH {
        sin[i] = t[i] * sin[i];
        const U32 q = wb[i] + 0x20000000u;  // bit 30: odd quadrant, bit 31: second half turn
        const I32 odd = bits<I32>(q << 1) < 0;
        const F32 signed_r = bits<F32>(bits<U32>(r[i]) ^ (q & 0x80000000u));
        z0[i] = signed_r * (odd ? -sin[i] : cos[i]);
        z1[i] = signed_r * (odd ? cos[i] : sin[i]);
    }
}

// The normals of one (seed, draw, stream). Counters are in 64-bit lanes. The high half of a lane holds what a product
// left there; later products ignore it.
struct Noise {
    // The keys of each round, and the parts of rounds 1 and 2 that do not depend on the element. They have 64 bits so
    // that AVX-512 broadcasts them from memory inside the instruction that uses them.
    std::uint64_t k2, x0, x2, x3, key0[scheme::ROUNDS], key1[scheme::ROUNDS];

    Noise() = default;

    Noise(std::int64_t seed, std::uint32_t draw, std::uint32_t stream) {
        for (std::uint32_t i = 0; i < scheme::ROUNDS; ++i) {
            key0[i] = static_cast<std::uint32_t>(seed) + i * scheme::WEYL_0;
            key1[i] = static_cast<std::uint32_t>(seed >> 32) + i * scheme::WEYL_1;
        }
        const std::uint64_t p1 = std::uint64_t{scheme::MULTIPLIER_1} * stream;
        const auto c0 = static_cast<std::uint32_t>((p1 >> 32) ^ draw ^ key0[0]);
        const std::uint64_t p0 = std::uint64_t{scheme::MULTIPLIER_0} * c0;
        k2 = key1[0];
        x0 = static_cast<std::uint32_t>(p1) ^ key0[1];
        x2 = (p0 >> 32) ^ key1[1];
        x3 = static_cast<std::uint32_t>(p0) ^ key1[2];
    }

    // z[0 … NORMALS − 1] from the counters that begin with `first`.
    INLINE void fill(float *z, std::uint32_t first) const {
        constexpr int N = UNITS;
        const U64 m0 = all64(scheme::MULTIPLIER_0), m1 = all64(scheme::MULTIPLIER_1);
        U64 c0[N], c1[N], c2[N], c3[N];
        EACH {
            U64 quad;  // lane 2k + j holds counter j·LANES + k, so that zipping leaves them in order
            UNROLL for (int k = 0; k < LANES; ++k) {
                quad[2 * k] = i * 2 * LANES + k;
                quad[2 * k + 1] = i * 2 * LANES + LANES + k;
            }
            const U64 p0 = multiply(quad + first, m0);
            const U64 p1 = multiply((p0 >> 32) ^ k2, m1);
            c0[i] = (p1 >> 32) ^ x0;
            c1[i] = p1;
            c2[i] = p0 ^ x2;
        }
        EACH {
            const U64 p0 = multiply(c0[i], m0), p1 = multiply(c2[i], m1);
            c0[i] = (p1 >> 32) ^ c1[i] ^ key0[2];
            c2[i] = (p0 >> 32) ^ x3;
            c1[i] = p1;
            c3[i] = p0;
        }
        UNROLL for (std::uint32_t round = 3; round < scheme::ROUNDS; ++round) EACH {
            const U64 p0 = multiply(c0[i], m0), p1 = multiply(c2[i], m1);
            c0[i] = (p1 >> 32) ^ c1[i] ^ key0[round];
            c2[i] = (p0 >> 32) ^ c3[i] ^ key1[round];
            c1[i] = p1;
            c3[i] = p0;
        }
        U32 wa[N], wb[N];
        F32 even[N], odd[N];  // z0 z2 and z1 z3 of each counter
        EACH wa[i] = pairs(c0[i], c2[i]);
        EACH wb[i] = pairs(c1[i], c3[i]);
        box_muller(wa, wb, even, odd);
        EACH {
            store(z + i * 2 * WIDTH, zip_low(even[i], odd[i]));
            store(z + i * 2 * WIDTH + WIDTH, zip_high(even[i], odd[i]));
        }
    }
};

void normal(const NormalArgs &a, std::int64_t b, std::int64_t first, std::int64_t last) {
    const Noise noise(a.seeds[b], a.draw, a.stream);
    float *out = a.out + b * a.numel;
    for (; first + NORMALS <= last; first += NORMALS) noise.fill(out + first, static_cast<std::uint32_t>(first / 4));
    if (first < last) {
        alignas(64) float z[NORMALS];
        noise.fill(z, static_cast<std::uint32_t>(first / 4));
        __builtin_memcpy(out + first, z, (last - first) * 4);
    }
}
