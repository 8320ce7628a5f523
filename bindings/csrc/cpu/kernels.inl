// The fused row and the normals, for vectors of WIDTH floats. Mirrors restart_kernels/row/reference.py and
// restart_kernels/philox/coefficients.py bit for bit: every product and sum is rounded on its own (-ffp-contract=off).
//
// The file of each instruction set includes this once, inside its own namespace, after it has defined WIDTH and
//   UNITS                vectors of WIDTH / 2 counters that are computed side by side, as many as the registers hold
//   exact_fma(a, b, c)   a·b + c for an exact product a·b, where one rounding and two are the same
//   to_float(U32)        rounded to nearest even
//   root(F32)            correctly rounded
//   multiply(U64, U64)   64-bit product of the low 32 bits of each lane; the high ones are ignored
//   pairs(U64, U64)      32-bit lanes: low word of a, low word of b, and so on
//   zip_low, zip_high    a0 b0 a1 b1 and a2 b2 a3 b3 of every 128 bits
//   widen                U16 to U32 (__builtin_convertvector takes 4 to 6 instructions)
//   pack(to, U32, U32)   the values, below 2¹⁶, of two vectors as 16 bits each
//   half_to_even(U32)    adds 0x7fff, and 1 more where bit 16 is set: the high halves are then rounded to nearest even
//   from_half, to_half   float16, to nearest even
// Nothing from the standard library is called here: the linker keeps one copy of an inline function for the whole
// library, and that might be the one compiled for AVX-512.

constexpr std::int64_t VECTORS = 4;  // per block: enough to amortise its uniform branches
constexpr std::int64_t ELEMENTS = VECTORS * WIDTH;
constexpr int LANES = WIDTH / 4;  // of 128 bits
constexpr std::int64_t NORMALS = UNITS * 2 * WIDTH;  // computed at once
static_assert(BLOCK % NORMALS == 0 && NORMALS % ELEMENTS == 0);

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define EACH UNROLL for (int i = 0; i < N; ++i)

template <class To, class From>
INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

INLINE F32 all(float a) { return a - F32{}; }  // not a + 0, which makes +0 of −0
INLINE U32 all(std::uint32_t a) { return a - U32{}; }
INLINE U64 all64(std::uint64_t a) { return a - U64{}; }

template <class V>
INLINE V load(const void *from) {
    V v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
INLINE void store(void *to, V v) {
    __builtin_memcpy(to, &v, sizeof v);
}

// --- 16-bit floats ---------------------------------------------------------------------------------------------

INLINE F32 from_bfloat16(U16 v) { return bits<F32>(widen(v) << 16); }

INLINE U32 to_bfloat16(F32 v) {
    const U32 even = half_to_even(bits<U32>(v)) >> 16;
    return v == v ? even : all(0x7fc0u);
}

INLINE std::int64_t size_of(Float type) { return type == FLOAT32 ? 4 : 2; }

// One block of a register of any type; the branch is uniform.
INLINE void load_block(F32 (&v)[VECTORS], const void *from, Float type) {
    const auto *p = static_cast<const char *>(from);
    if (type == FLOAT32) {
        UNROLL for (int j = 0; j < VECTORS; ++j) v[j] = load<F32>(p + j * 4 * WIDTH);
    } else if (type == BFLOAT16) {
        UNROLL for (int j = 0; j < VECTORS; ++j) v[j] = from_bfloat16(load<U16>(p + j * 2 * WIDTH));
    } else {
        UNROLL for (int j = 0; j < VECTORS; ++j) v[j] = from_half(load<U16>(p + j * 2 * WIDTH));
    }
}

INLINE void store_block(void *to, const F32 (&v)[VECTORS], Float type) {
    auto *p = static_cast<char *>(to);
    if (type == FLOAT32) {
        UNROLL for (int j = 0; j < VECTORS; ++j) store(p + j * 4 * WIDTH, v[j]);
    } else if (type == BFLOAT16) {
        UNROLL for (int j = 0; j < VECTORS; j += 2) pack(p + j * 2 * WIDTH, to_bfloat16(v[j]), to_bfloat16(v[j + 1]));
    } else {
        UNROLL for (int j = 0; j < VECTORS; ++j) store(p + j * 2 * WIDTH, to_half(v[j]));
    }
}

// --- noise -----------------------------------------------------------------------------------------------------

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

// --- the row ---------------------------------------------------------------------------------------------------

// The row that a sample is at.
struct Row {
    const float *c;
    std::int32_t flags;
    bool noisy;
    Noise noise;
    Float F_type, net_type;
    F32 no_h_in_y, no_h_in_g;  // the term of an h that the row does not read: a zero with the coefficient's sign
};

// Where the next elements of that sample are.
struct Place {
    float *x, *h;
    const char *F, *F_uncond;
    char *net[2];  // the second is null without guidance
};

// Runs the row on one block. Everything but the arithmetic depends on the row alone, so the branches are predicted, and
// a register that the row does not read or store is not touched. `bad` becomes NaN where y is not finite, and stays
// NaN.
template <bool NOISY, bool READ_H>
INLINE void row_block(F32 (&bad)[VECTORS], const Row &row, const Place &at, const float *noise, std::int64_t count) {
    const float *c = row.c;
    F32 x[VECTORS] = {}, h[VECTORS] = {}, F[VECTORS] = {}, y[VECTORS];
    if (row.flags & layout::READ_X) load_block(x, at.x, FLOAT32);
    if (READ_H) load_block(h, at.h, FLOAT32);
    if (row.flags & layout::READ_F) {
        load_block(F, at.F, row.F_type);
        if (at.F_uncond) {
            F32 uncond[VECTORS];
            load_block(uncond, at.F_uncond, row.F_type);
            UNROLL for (int j = 0; j < VECTORS; ++j) F[j] = uncond[j] + c[layout::W] * (F[j] - uncond[j]);
        }
    }
    UNROLL for (int j = 0; j < VECTORS; ++j)
        y[j] = (c[layout::Y_X] * x[j] + (READ_H ? c[layout::Y_H] * h[j] : row.no_h_in_y)) + c[layout::Y_F] * F[j];
    if (NOISY) {
        F32 z[VECTORS];
        load_block(z, noise, FLOAT32);
        UNROLL for (int j = 0; j < VECTORS; ++j) y[j] = y[j] + c[layout::S] * z[j];
    }
    if (row.flags & layout::STORE_H) {
        F32 g[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; ++j)
            g[j] = (c[layout::G_X] * x[j] + (READ_H ? c[layout::G_H] * h[j] : row.no_h_in_g)) + c[layout::G_F] * F[j];
        store_block(at.h, g, FLOAT32);
    }
    if (row.flags & layout::STORE_X) store_block(at.x, y, FLOAT32);
    if (row.flags & layout::STORE_NET) {
        F32 net[VECTORS];
        UNROLL for (int j = 0; j < VECTORS; ++j) net[j] = c[layout::C_IN] * y[j];
        store_block(at.net[0], net, row.net_type);
        if (at.net[1]) store_block(at.net[1], net, row.net_type);
    }
    if (count < ELEMENTS) {  // values beyond the end of the sample are ignored
        UNROLL for (int j = 0; j < VECTORS; ++j) {
            I32 lane;
            UNROLL for (int k = 0; k < WIDTH; ++k) lane[k] = j * WIDTH + k;
            y[j] = lane < static_cast<std::int32_t>(count) ? y[j] : F32{};
        }
    }
    UNROLL for (int j = 0; j < VECTORS; ++j) bad[j] = exact_fma(y[j], F32{}, bad[j]);
}

// Runs the row on the last elements of a sample, fewer than a block, through a block in local memory.
template <bool NOISY, bool READ_H>
__attribute__((noinline)) void row_tail(F32 (&bad)[VECTORS], const Row &row, const Place &at, const float *noise,
                                        std::int64_t count) {
    alignas(64) float x[ELEMENTS] = {}, h[ELEMENTS] = {}, F[ELEMENTS] = {}, F_uncond[ELEMENTS] = {}, net[ELEMENTS];
    const std::int64_t n = count * 4, n_F = count * size_of(row.F_type), n_net = count * size_of(row.net_type);
    if (row.flags & layout::READ_X) __builtin_memcpy(x, at.x, n);
    if (row.flags & layout::READ_H) __builtin_memcpy(h, at.h, n);
    if (row.flags & layout::READ_F) {
        __builtin_memcpy(F, at.F, n_F);
        if (at.F_uncond) __builtin_memcpy(F_uncond, at.F_uncond, n_F);
    }
    const char *uncond = at.F_uncond ? reinterpret_cast<const char *>(F_uncond) : nullptr;
    const Place here{x, h, reinterpret_cast<const char *>(F), uncond, {reinterpret_cast<char *>(net), nullptr}};
    row_block<NOISY, READ_H>(bad, row, here, noise, count);
    if (row.flags & layout::STORE_X) __builtin_memcpy(at.x, x, n);
    if (row.flags & layout::STORE_H) __builtin_memcpy(at.h, h, n);
    if (row.flags & layout::STORE_NET) {
        __builtin_memcpy(at.net[0], net, n_net);
        if (at.net[1]) __builtin_memcpy(at.net[1], net, n_net);
    }
}

// Runs the row on elements [first, last) of a sample. Returns whether all y are finite.
template <bool NOISY, bool READ_H>
bool row_range(const Row &row, Place at, std::int64_t first, std::int64_t last) {
    const std::int64_t F_stride = ELEMENTS * size_of(row.F_type), net_stride = ELEMENTS * size_of(row.net_type);
    alignas(64) float noise[NORMALS];
    std::int64_t made = NORMALS;
    F32 bad[VECTORS] = {};
    for (; first < last; first += ELEMENTS, made += ELEMENTS) {
        if (NOISY && made == NORMALS) {
            row.noise.fill(noise, static_cast<std::uint32_t>(first / 4));
            made = 0;
        }
        const std::int64_t count = last - first;
        if (count < ELEMENTS) {
            F32 last_bad[VECTORS] = {};  // not `bad`, which would then have to live in memory
            row_tail<NOISY, READ_H>(last_bad, row, at, noise + made, count);
            UNROLL for (int j = 0; j < VECTORS; ++j) bad[j] += last_bad[j];
            break;
        }
        row_block<NOISY, READ_H>(bad, row, at, noise + made, ELEMENTS);
        at.x += ELEMENTS;
        at.h += ELEMENTS;
        at.F += F_stride;
        if (at.F_uncond) at.F_uncond += F_stride;
        at.net[0] += net_stride;
        if (at.net[1]) at.net[1] += net_stride;
    }
    UNROLL for (int j = 1; j < VECTORS; ++j) bad[0] += bad[j];
    const U64 nan = bits<U64>(bad[0] != bad[0]);
    std::uint64_t any = 0;
    UNROLL for (int k = 0; k < WIDTH / 2; ++k) any |= nan[k];
    return any == 0;
}

void run_row(const RowArgs &a, std::int64_t b, std::int64_t first, std::int64_t last) {
    const std::int32_t index = a.cursor[b * a.cursor_stride];
    if (index < 0) return;
    const float *c = a.coef + index * std::int64_t{layout::NUM_COEF};
    const std::int32_t *code = a.code + index * std::int64_t{layout::NUM_CODE};
    std::int32_t flags = code[layout::FLAGS];
    if (!a.F) flags &= ~layout::READ_F;
    const bool noisy = c[layout::S] != 0;
    const auto draw = static_cast<std::uint32_t>(code[layout::DRAW]);
    const F32 zero = {};
    const Row row{c,        flags,      noisy,
                  Noise(a.seeds[b], draw, scheme::STREAM_NORMAL),
                  a.F_type, a.net_type, c[layout::Y_H] * zero,
                  c[layout::G_H] * zero};

    const std::int64_t from = b * a.numel + first, half = a.batch * a.numel;
    const std::int64_t F_size = size_of(a.F_type), net_size = size_of(a.net_type);
    auto *net = static_cast<char *>(a.net_in) + from * net_size;
    const Place at{
        a.x + from,
        a.h + from,
        static_cast<const char *>(a.F) + (a.F ? from * F_size : 0),
        a.F_uncond ? static_cast<const char *>(a.F_uncond) + from * F_size : nullptr,
        {net, a.halves == 2 ? net + half * net_size : nullptr},
    };
    const bool reads_h = flags & layout::READ_H;
    const auto range = noisy ? (reads_h ? row_range<true, true> : row_range<true, false>)
                             : (reads_h ? row_range<false, true> : row_range<false, false>);
    const bool finite = range(row, at, first, last);
    if (!finite) {  // an atomic minimum: another thread may run another range of this sample
        std::int32_t *p = a.first_bad + b, old = __atomic_load_n(p, __ATOMIC_RELAXED);
        while (index < old && !__atomic_compare_exchange_n(p, &old, index, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
    }
}

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

void triad(const TriadArgs &t, std::int64_t b, std::int64_t first, std::int64_t last) {
    const std::int64_t from = b * t.numel;
    for (; first + ELEMENTS <= last; first += ELEMENTS) {
        F32 v[VECTORS], w[VECTORS];
        load_block(v, t.b + from + first, FLOAT32);
        load_block(w, t.c + from + first, FLOAT32);
        UNROLL for (int j = 0; j < VECTORS; ++j) v[j] += t.s * w[j];
        store_block(t.a + from + first, v, FLOAT32);
    }
    for (; first < last; ++first) t.a[from + first] = t.b[from + first] + t.s * t.c[from + first];
}
