// The kernels for vectors of WIDTH floats: normals.inl, row.inl and weigh.inl, on what is here. Every product and sum
// is rounded on its own (-ffp-contract=off).
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

#include "normals.inl"
#include "row.inl"
#include "weigh.inl"

// --- for the benchmark -----------------------------------------------------------------------------------------

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
