// The weights of two outputs, by five sums over a whole sample. Mirrors restart_kernels/row/weights.py bit for bit:
// each sum has 1024 accumulators, and element i is added to accumulator i mod 1024.

constexpr std::int64_t ACCUMULATORS = 1024, SUMS = 5;
constexpr std::int64_t CHUNKS = 4;  // of 1024 elements that are added while their accumulators are in registers

INLINE float divide(float a, float b) { return a / b; }
INLINE float square_root(float v) { return __builtin_sqrtf(v); }

#define RESTART_WEIGHTS INLINE
#include "weights.inl"
#undef RESTART_WEIGHTS

template <Float TYPE>
INLINE F32 load_one(const char *from, std::int64_t i) {
    if constexpr (TYPE == FLOAT32) return load<F32>(from + 4 * i);
    const U16 v = load<U16>(from + 2 * i);
    return TYPE == BFLOAT16 ? from_bfloat16(v) : from_half(v);
}

// Adds CHUNKS_ chunks of the outputs c and u to WIDTH accumulators of each sum, the first of which are at `sums`.
template <Float TYPE, std::int64_t CHUNKS_>
INLINE void accumulate(float *sums, const char *c, const char *u, std::int64_t i) {
    F32 s[SUMS];
    UNROLL for (int k = 0; k < SUMS; ++k) s[k] = load<F32>(sums + k * ACCUMULATORS);
    UNROLL for (int chunk = 0; chunk < CHUNKS_; ++chunk) {
        const F32 a = load_one<TYPE>(c, i + chunk * ACCUMULATORS), b = load_one<TYPE>(u, i + chunk * ACCUMULATORS);
        s[0] = s[0] + a * a;
        s[1] = s[1] + b * b;
        s[2] = s[2] + a * b;
        s[3] = s[3] + a;
        s[4] = s[4] + b;
    }
    UNROLL for (int k = 0; k < SUMS; ++k) store(sums + k * ACCUMULATORS, s[k]);
}

// Adds the n elements of a sample to the accumulators of the five sums.
template <Float TYPE>
void accumulate_all(float *sums, const char *c, const char *u, std::int64_t n) {
    std::int64_t first = 0;
    for (; first + CHUNKS * ACCUMULATORS <= n; first += CHUNKS * ACCUMULATORS)
        for (std::int64_t i = 0; i < ACCUMULATORS; i += WIDTH) accumulate<TYPE, CHUNKS>(sums + i, c, u, first + i);
    std::int64_t at = first;
    for (; at + WIDTH <= n; at += WIDTH) accumulate<TYPE, 1>(sums + at % ACCUMULATORS, c, u, at);
    if (at == n) return;
    // The last elements, fewer than a vector, beside zeros: an accumulator is never −0, so that +0 does not change it.
    alignas(64) char last_c[4 * WIDTH] = {}, last_u[4 * WIDTH] = {};
    const std::int64_t size = size_of(TYPE);
    __builtin_memcpy(last_c, c + at * size, (n - at) * size);
    __builtin_memcpy(last_u, u + at * size, (n - at) * size);
    accumulate<TYPE, 1>(sums + at % ACCUMULATORS, last_c, last_u, 0);
}

// to[i] = from[2i] + from[2i + 1].
void add_neighbours(float *__restrict to, const float *__restrict from, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[2 * i] + from[2 * i + 1];
}

void weigh(const WeighArgs &a, std::int64_t b) {
    const std::int32_t index = a.cursor[b * a.cursor_stride];
    if (index < 0) return;
    const std::int32_t flags = a.code[index * std::int64_t{layout::NUM_CODE} + layout::FLAGS];
    if (!(flags & layout::GUIDE) || !(flags & METHODS)) return;
    const std::int64_t from = b * a.numel * size_of(a.F_type);
    const char *c = static_cast<const char *>(a.F) + from, *u = static_cast<const char *>(a.F_uncond) + from;
    alignas(64) float sums[SUMS * ACCUMULATORS] = {}, halved[SUMS * ACCUMULATORS / 2];
    if (a.F_type == FLOAT32) accumulate_all<FLOAT32>(sums, c, u, a.numel);
    else if (a.F_type == BFLOAT16) accumulate_all<BFLOAT16>(sums, c, u, a.numel);
    else accumulate_all<FLOAT16>(sums, c, u, a.numel);
    // 1024 → 512 → … → 1. The five sums lie one after the other, so that five numbers are left.
    static_assert(ACCUMULATORS == 1 << 10);
    for (std::int64_t n = SUMS * ACCUMULATORS / 2; n >= SUMS; n /= 4) {
        add_neighbours(halved, sums, n);
        add_neighbours(sums, halved, n / 2);
    }
    const float *s = sums, *row = a.coef + index * std::int64_t{layout::NUM_COEF};
    const Weights found = weights({s[0], s[1], s[2], s[3], s[4]}, row[layout::W], row[layout::P], row[layout::Q], flags,
                                  static_cast<float>(a.numel));
    a.mix[2 * b] = found.c;
    a.mix[2 * b + 1] = found.u;
}
