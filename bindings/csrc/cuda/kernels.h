// How a kernel is cut into threads, and the two small kernels: advance and the normals. row.h has the row, weigh.h the
// weights of two outputs.
//
// Each kernel is written as the work of one thread. A thread owns QUADS counters of one sample, four elements each.
#pragma once

#include "memory.h"
#include "philox.h"

namespace restart::cuda {

constexpr int WARP = 32;

struct AdvanceArgs {
  const float* coef;
  const int32_t* code;
  int32_t* cursor;
  float* c_noise;  // null if unused
  int64_t batch, numel;  // 1, and 4 per cursor: a thread's counter is then a cursor
  int32_t rows;
  float* c_noise_2 = nullptr;  // for the other half of net_in
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

// A kernel is a type with QUADS, Args and run. launch.h chooses among these and those of row.h.

// Writes c_noise of the next evaluation and moves the cursor one row on.
struct Advance {
  using Args = AdvanceArgs;
  static constexpr int QUADS = 1;
  RESTART_HD static void run(const Args& a, Place at) {
    if (elements_left(a.numel, at.quad) <= 0) return;
    const int32_t row = a.cursor[at.quad];
    if (idle(row, a.rows)) return;
    const float c_noise = a.coef[static_cast<int64_t>(row) * layout::NUM_COEF + layout::C_NOISE];
    if (a.c_noise) a.c_noise[at.quad] = c_noise;
    if (a.c_noise_2) a.c_noise_2[at.quad] = c_noise;
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
