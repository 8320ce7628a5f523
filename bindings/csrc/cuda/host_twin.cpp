// The kernels on the host: the same grid, threads, addresses and arithmetic as on a GPU, one thread after the other.
// For tests on machines without a GPU (tests/kernels/test_native_cuda.py); not installed.
//
//     g++ -std=c++17 -O1 -ffp-contract=off -shared -fPIC -I .. -I <folder of restart_scheme.h> host_twin.cpp
#include <typeinfo>

#include "launch.h"

namespace restart::cuda {
namespace {

// Runs every thread of the kernel that would be launched. Returns the name of its type, null if none is launched.
template <class Args>
const char* emulate(const Args& args) {
  const char* name = nullptr;
  dispatch(args, [&name](auto choice, const Args& a, const Config& c) {
    using Kernel = typename decltype(choice)::type;
    name = typeid(Kernel).name();
    for (uint32_t z = 0; z < c.z; ++z)
      for (uint32_t y = 0; y < c.y; ++y)
        for (uint32_t x = 0; x < c.x; ++x)
          for (uint32_t t = 0; t < c.threads; ++t) {
            const Place at = locate(Kernel::QUADS, x, y, z, c.y, c.threads, t);
            if (at.sample < a.batch) Kernel::run(a, at);
          }
  });
  return name;
}

// The same for the kernel in phases: all threads of a block end a phase before one begins the next.
const char* emulate(const WeighArgs& args) {
  const char* name = nullptr;
  dispatch(args, [&name](auto choice, const WeighArgs& a, const Config& c) {
    using Kernel = typename decltype(choice)::type;
    name = typeid(Kernel).name();
    for (int64_t sample = 0; sample < c.x; ++sample) {
      if (!Kernel::begins(a, sample)) continue;
      typename Kernel::Shared shared;
      std::memset(&shared, 0xff, sizeof shared);  // NaN, as what a block finds there is undefined
      for (int phase = 0; phase < Kernel::PHASES; ++phase)
        for (uint32_t t = 0; t < c.threads; ++t) Kernel::run(a, sample, t, phase, shared);
    }
  });
  return name;
}

}  // namespace

extern "C" {

const char* twin_row(float* x, float* h, float* h2, float* h3, const void* F, const void* F_uncond, void* net_in,
                     const float* coef, const int32_t* code, int32_t* cursor, const int64_t* seeds, int32_t* first_bad,
                     const float* known, const float* mask, const float* mix, int64_t batch, int64_t numel,
                     int32_t rows, int32_t cursor_stride, int32_t F_dtype, int32_t net_dtype, int32_t halves,
                     int32_t noises) {
  return emulate(RowArgs{x, h, h2, h3, F, F_uncond, net_in, coef, code, cursor, seeds, first_bad, known, mask, mix,
                         batch, numel, rows, cursor_stride, static_cast<Float>(F_dtype), static_cast<Float>(net_dtype),
                         halves, noises, 0});
}

const char* twin_weigh(float* mix, const void* F, const void* F_uncond, const float* coef, const int32_t* code,
                       const int32_t* cursor, int64_t batch, int64_t numel, int32_t rows, int32_t cursor_stride,
                       int32_t F_dtype) {
  return emulate(WeighArgs{mix, F, F_uncond, coef, code, cursor, batch, numel, rows, cursor_stride,
                           static_cast<Float>(F_dtype)});
}

const char* twin_advance(const float* coef, const int32_t* code, int32_t* cursor, float* c_noise, int64_t cursors,
                         int32_t rows) {
  return emulate(AdvanceArgs{coef, code, cursor, c_noise, 1, 4 * cursors, rows});
}

const char* twin_normal(float* out, const int64_t* seeds, uint32_t draw, uint32_t stream, int64_t batch,
                        int64_t numel) {
  return emulate(NormalArgs{out, seeds, draw, stream, batch, numel});
}

// Writes the words of counters 0 … quads − 1 of one seed.
void twin_words(uint32_t* out, int64_t seed, uint32_t draw, uint32_t stream, uint32_t quads) {
  for (uint32_t i = 0; i < quads; ++i) {
    uint32_t w[4] = {i, draw, stream, 0};
    philox(w, static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32));
    for (int k = 0; k < 4; ++k) out[4 * i + k] = w[k];
  }
}

// Converts float32 to 16 bits in `half`, and those to float32 in `back`.
void twin_convert(int32_t dtype, const float* x, uint16_t* half, float* back, int64_t n) {
  const Elements elements{static_cast<Float>(dtype)};
  for (int64_t i = 0; i < n; i += 4) {
    const int count = n - i < 4 ? static_cast<int>(n - i) : 4;
    float v[4] = {};
    for (int k = 0; k < count; ++k) v[k] = x[i + k];
    elements.store(half, i, v, count);
    Elements::unpack(elements.load(half, i, count), v);
    for (int k = 0; k < count; ++k) back[i + k] = v[k];
  }
}

void twin_widen(int32_t dtype, const uint16_t* half, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float v[4];
    Elements::unpack(Elements{static_cast<Float>(dtype)}.load(half, i, 1), v);
    out[i] = v[0];
  }
}

// Writes the launch configuration; returns 0 if there is no such launch.
int twin_configure(int64_t numel, int64_t batch, int most_quads, int64_t* out) {
  try {
    const Config c = configure(numel, batch, most_quads);
    out[0] = c.quads, out[1] = c.threads, out[2] = c.x, out[3] = c.y, out[4] = c.z;
    return 1;
  } catch (const std::invalid_argument&) {
    return 0;
  }
}

}  // extern "C"
}  // namespace restart::cuda
