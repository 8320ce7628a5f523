// The kernels of the CPU library: their arguments, and the table of functions of one instruction set.
#pragma once

#include <cstdint>

namespace restart::cpu {

enum Float : std::int32_t { FLOAT32, BFLOAT16, FLOAT16 };

// One run of a row; the arrays are those of Machine in restart_kernels/machine.py, null where it has none.
struct RowArgs {
    float *x, *h, *h2, *h3;
    const void *F, *F_uncond;  // F null: no row reads it; F_uncond null: no row is guided
    void *net_in;
    Float F_type, net_type;
    std::int32_t halves;  // of net_in: 2 under guidance, both are written
    const float *known, *mask, *mix;
    std::int32_t noises;
    std::int32_t served;  // the flags of a row that count, by `served_flags`
    const float *coef;
    const std::int32_t *code, *cursor;
    std::int64_t cursor_stride;  // 0: one cursor for the batch
    const std::int64_t *seeds;
    std::int32_t *first_bad;
    std::int64_t batch, numel;
};

// The weights of two outputs, for the samples whose row has a method of restart_kernels/row/weights.py.
struct WeighArgs {
    float *mix;
    const void *F, *F_uncond;
    Float F_type;
    const float *coef;
    const std::int32_t *code, *cursor;
    std::int64_t cursor_stride;
    std::int64_t batch, numel;
};

struct NormalArgs {
    float *out;
    const std::int64_t *seeds;
    std::uint32_t draw, stream;
    std::int64_t batch, numel;
};

// a = b + s·c, for the benchmark: the bandwidth that a row is compared with.
struct TriadArgs {
    float *a;
    const float *b, *c;
    float s;
    std::int64_t batch, numel;
};

// Each function handles elements [first, last) of one sample, where first is a multiple of BLOCK; `weigh` handles a
// whole sample.
struct Kernels {
    const char *name;
    void (*run_row)(const RowArgs &, std::int64_t sample, std::int64_t first, std::int64_t last);
    void (*normal)(const NormalArgs &, std::int64_t sample, std::int64_t first, std::int64_t last);
    void (*triad)(const TriadArgs &, std::int64_t sample, std::int64_t first, std::int64_t last);
    void (*weigh)(const WeighArgs &, std::int64_t sample);
};

constexpr std::int64_t BLOCK = 256;  // a multiple of what any instruction set handles at once

extern const Kernels portable;
extern const Kernels avx2;    // name null where the compiler has no such target
extern const Kernels avx512;  // likewise

}  // namespace restart::cpu
