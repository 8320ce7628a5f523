// The three kernels, each written as the work of one thread: a row, advance, the normals.
//
// Mirrors restart_kernels/row/reference.py and philox/reference.py bit for bit. A thread owns QUADS counters of one
// sample, four elements each. The whole block is at the same row, so what depends on it (what is read, what is stored,
// whether there is noise) is a uniform branch; there is no shared memory, no barrier and no loop.
#pragma once

#include <type_traits>

#include "memory.h"
#include "philox.h"

namespace restart::cuda {

constexpr int WARP = 32;

// A machine and a network output, as in restart_kernels/machine.py.
struct RowArgs {
  float *x, *h;
  const void *F, *F_uncond;  // both null if no row reads F, F_uncond also if not guided
  void* net_in;              // guided: [2B, …]
  const float* coef;
  const int32_t* code;
  int32_t* cursor;
  const int64_t* seeds;
  int32_t* first_bad;
  int64_t batch, numel;  // samples; elements of each, below 2³¹
  int32_t rows;           // of the table
  int32_t cursor_stride;  // 0: one cursor for all
  Float F_dtype, net_dtype;
  bool guided;
};

struct AdvanceArgs {
  const float* coef;
  const int32_t* code;
  int32_t* cursor;
  float* c_noise;  // null if unused
  int64_t batch, numel;  // 1, and 4 per cursor: a thread's counter is then a cursor
  int32_t rows;
};

struct NormalArgs {
  float* out;
  const int64_t* seeds;
  uint32_t draw, stream;
  int64_t batch, numel;
};

// The counters that a thread owns: quad, quad + 32, … of a sample. A warp owns consecutive ones, so it moves whole
// lines; the stride is a constant, so all addresses but the first are immediates.
struct Place {
  int64_t sample;
  uint32_t quad;
};

RESTART_HD Place locate(int quads, uint32_t block_x, uint32_t block_y, uint32_t block_z, uint32_t grid_y,
                        uint32_t threads, uint32_t thread) {
  const uint32_t t = block_x * threads + thread;
  // The second axis of a grid ends at 65535 blocks; the third continues it.
  return {static_cast<int64_t>(block_z) * grid_y + block_y, (t - t % WARP) * quads + t % WARP};
}

// Elements from a counter to the end of its sample; 0 or less past it.
RESTART_HD int elements_left(int64_t numel, uint32_t quad) {
  return static_cast<int>(static_cast<uint32_t>(numel) - 4 * quad);
}

// Whether a cursor is idle: negative, or beyond the table. The latter cannot be an error unless the host waits for it.
RESTART_HD bool idle(int32_t row, int32_t rows) { return static_cast<uint32_t>(row) >= static_cast<uint32_t>(rows); }

struct Row {
  float y_x, y_h, y_F, s, g_x, g_h, g_F, c_in, w;
  int32_t flags;
  uint32_t draw;
};

RESTART_HD Row read_row(const RowArgs& a, int32_t row) {
  const float* c = a.coef + static_cast<int64_t>(row) * layout::NUM_COEF;
  const int32_t* code = a.code + static_cast<int64_t>(row) * layout::NUM_CODE;
  const int32_t flags = a.F ? code[layout::FLAGS] : code[layout::FLAGS] & ~layout::READ_F;
  return {c[layout::Y_X], c[layout::Y_H], c[layout::Y_F],  c[layout::S], c[layout::G_X], c[layout::G_H],
          c[layout::G_F], c[layout::C_IN], c[layout::W],   flags,        static_cast<uint32_t>(code[layout::DRAW])};
}

// (a·x + b·h) + c·F, every operation rounded.
RESTART_HD float affine(float a, float x, float b, float h, float c, float F) { return (a * x + b * h) + c * F; }

// Runs row cursor[b] on the counters at `at`. Register, Output and Input are how x and h, F, and net_in are accessed.
template <int QUADS, bool GUIDED, class Register, class Output, class Input>
RESTART_HD void row_thread(const RowArgs& a, Place at, Register register_, Output output, Input input) {
  const int32_t at_row = a.cursor[at.sample * a.cursor_stride];
  if (idle(at_row, a.rows)) return;
  const Row r = read_row(a, at_row);
  const int64_t base = at.sample * a.numel + static_cast<int64_t>(at.quad) * 4;
  const int left = elements_left(a.numel, at.quad);

  // The loads are issued before the noise is computed, which hides their latency. An unread register is +0.
  typename Register::Packed xs[QUADS], hs[QUADS];
  typename Output::Packed Fs[QUADS], Fs_uncond[QUADS];
  RESTART_UNROLL
  for (int j = 0; j < QUADS; ++j) {
    const int i = j * WARP * 4, count = left - i;
    const int flags = count > 0 ? r.flags : 0;
    xs[j] = flags & layout::READ_X ? register_.load(a.x, base + i, count) : Register::zeros();
    hs[j] = flags & layout::READ_H ? register_.load(a.h, base + i, count) : Register::zeros();
    Fs[j] = flags & layout::READ_F ? output.load(a.F, base + i, count) : Output::zeros();
    if (GUIDED) Fs_uncond[j] = flags & layout::READ_F ? output.load(a.F_uncond, base + i, count) : Output::zeros();
  }

  const bool noisy = r.s != 0.0f;
  float noise[QUADS][4];
  if (noisy) {
    const uint64_t seed = static_cast<uint64_t>(a.seeds[at.sample]);
    RESTART_UNROLL
    for (int j = 0; j < QUADS; ++j) {
      normal4(at.quad + j * WARP, r.draw, scheme::STREAM_NORMAL, seed, noise[j]);
      for (int k = 0; k < 4; ++k) noise[j][k] = r.s * noise[j][k];
    }
  }

  float largest = 0.0f;  // largest |y|, NaN if one y is: one test and at most one atomic per thread
  RESTART_UNROLL
  for (int j = 0; j < QUADS; ++j) {
    const int i = j * WARP * 4, count = left - i;
    float x[4], h[4], F[4], y[4], g[4], net[4];
    Register::unpack(xs[j], x);
    Register::unpack(hs[j], h);
    Output::unpack(Fs[j], F);
    if (GUIDED) {
      float F_uncond[4];
      Output::unpack(Fs_uncond[j], F_uncond);
      for (int k = 0; k < 4; ++k) F[k] = F_uncond[k] + r.w * (F[k] - F_uncond[k]);
    }
    RESTART_UNROLL
    for (int k = 0; k < 4; ++k) {
      y[k] = affine(r.y_x, x[k], r.y_h, h[k], r.y_F, F[k]);
      if (noisy) y[k] = y[k] + noise[j][k];  // adding 0 would make +0 of −0
      g[k] = affine(r.g_x, x[k], r.g_h, h[k], r.g_F, F[k]);
      net[k] = r.c_in * y[k];
      if (k < count) largest = max_abs_nan(largest, y[k]);
    }
    const int flags = count > 0 ? r.flags : 0;
    if (flags & layout::STORE_X) register_.store(a.x, base + i, y, count);
    if (flags & layout::STORE_H) register_.store(a.h, base + i, g, count);
    if (flags & layout::STORE_NET) {
      input.store(a.net_in, base + i, net, count);
      if (GUIDED) input.store(a.net_in, a.batch * a.numel + base + i, net, count);
    }
  }
  if (!(largest < INFINITY)) reduce_min(a.first_bad + at.sample, at_row);
}

// A kernel is a type with QUADS, Args and run. launch.h chooses among these.

template <class T, bool GUIDED, int QUADS_>
struct RowVectors {
  using Args = RowArgs;
  static constexpr int QUADS = QUADS_;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, GUIDED>(a, at, Vectors<float>{}, Vectors<T>{}, Vectors<T>{});
  }
};

template <bool GUIDED>
struct RowElements {
  using Args = RowArgs;
  static constexpr int QUADS = 1;
  RESTART_HD static void run(const Args& a, Place at) {
    row_thread<QUADS, GUIDED>(a, at, Elements{Float::float32}, Elements{a.F_dtype}, Elements{a.net_dtype});
  }
};

// Writes c_noise of the next evaluation and moves the cursor one row on.
struct Advance {
  using Args = AdvanceArgs;
  static constexpr int QUADS = 1;
  RESTART_HD static void run(const Args& a, Place at) {
    if (elements_left(a.numel, at.quad) <= 0) return;
    const int32_t row = a.cursor[at.quad];
    if (idle(row, a.rows)) return;
    if (a.c_noise) a.c_noise[at.quad] = a.coef[static_cast<int64_t>(row) * layout::NUM_COEF + layout::C_NOISE];
    const bool ends = (a.code[static_cast<int64_t>(row) * layout::NUM_CODE + layout::FLAGS] & layout::END) != 0;
    a.cursor[at.quad] = ends ? layout::IDLE : row + 1;
  }
};

template <int QUADS_, class Out>
struct Normal {
  using Args = NormalArgs;
  static constexpr int QUADS = QUADS_;
  RESTART_HD static void run(const Args& a, Place at) {
    const uint64_t seed = static_cast<uint64_t>(a.seeds[at.sample]);
    const int64_t base = at.sample * a.numel + static_cast<int64_t>(at.quad) * 4;
    const int left = elements_left(a.numel, at.quad);
    RESTART_UNROLL
    for (int j = 0; j < QUADS; ++j) {
      const int i = j * WARP * 4;
      float z[4];
      normal4(at.quad + j * WARP, a.draw, a.stream, seed, z);
      if (left - i > 0) Out{}.store(a.out, base + i, z, left - i);
    }
  }
};

}  // namespace restart::cuda
