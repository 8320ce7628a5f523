// The weights of two outputs, by five sums over a sample: a block for each sample. Mirrors
// restart_kernels/row/weights.py bit for bit.
//
// A sum has 1024 accumulators, and element i is added to accumulator i mod 1024: thread t owns accumulators 4t to
// 4t + 3, the elements of one counter in every 256. Then neighbours are added: the first two steps in the thread, the
// others through shared memory. The kernel is written in phases with a barrier between them, so that the host twin can
// run it.
#pragma once

#include "kernels.h"
#include "machine.h"

namespace restart::cuda {

#define RESTART_WEIGHTS RESTART_HD
#include "weights.inl"
#undef RESTART_WEIGHTS

struct WeighArgs {
  float* mix;
  const void *F, *F_uncond;
  const float* coef;
  const int32_t *code, *cursor;
  int64_t batch, numel;
  int32_t rows;
  int32_t cursor_stride;
  Float F_dtype;
};

constexpr int SUMS = 5;
constexpr uint32_t WEIGH_THREADS = 256;  // × 4 elements = 1024 accumulators
constexpr int CHUNKS = 4;                // of 1024 elements whose loads are issued together, to hide their latency

// Of each sum, what the threads have added up so far.
struct WeighShared {
  float sums[SUMS][WEIGH_THREADS];
};

RESTART_HD bool weighs(const WeighArgs& a, int64_t sample) {
  const int32_t row = a.cursor[sample * a.cursor_stride];
  if (idle(row, a.rows)) return false;
  const int32_t flags = a.code[static_cast<int64_t>(row) * layout::NUM_CODE + layout::FLAGS];
  return (flags & layout::GUIDE) && (flags & METHODS);
}

// Adds all elements of the thread's accumulators, and then the neighbours among these.
template <class Output>
RESTART_HD void accumulate(const WeighArgs& a, int64_t sample, uint32_t thread, Output output, WeighShared& shared) {
  const int64_t base = sample * a.numel;
  float sums[SUMS][4] = {};
  for (uint32_t first = thread; elements_left(a.numel, first) > 0; first += CHUNKS * WEIGH_THREADS) {
    typename Output::Packed cs[CHUNKS], us[CHUNKS];
    RESTART_UNROLL
    for (int j = 0; j < CHUNKS; ++j) {
      const uint32_t quad = first + j * WEIGH_THREADS;
      const int count = elements_left(a.numel, quad);
      const int64_t i = base + static_cast<int64_t>(quad) * 4;
      cs[j] = count > 0 ? output.load(a.F, i, count) : Output::zeros();
      us[j] = count > 0 ? output.load(a.F_uncond, i, count) : Output::zeros();
    }
    RESTART_UNROLL
    for (int j = 0; j < CHUNKS; ++j) {
      float c[4], u[4];
      Output::unpack(cs[j], c);
      Output::unpack(us[j], u);
      RESTART_UNROLL
      for (int k = 0; k < 4; ++k) {  // beyond the end +0 is added, which changes nothing: an accumulator is never −0
        sums[0][k] = sums[0][k] + c[k] * c[k];
        sums[1][k] = sums[1][k] + u[k] * u[k];
        sums[2][k] = sums[2][k] + c[k] * u[k];
        sums[3][k] = sums[3][k] + c[k];
        sums[4][k] = sums[4][k] + u[k];
      }
    }
  }
  RESTART_UNROLL
  for (int s = 0; s < SUMS; ++s)
    shared.sums[s][thread] = (sums[s][0] + sums[s][1]) + (sums[s][2] + sums[s][3]);
}

RESTART_HD void write_weights(const WeighArgs& a, int64_t sample, const WeighShared& shared) {
  const int32_t row = a.cursor[sample * a.cursor_stride];
  const float* c = a.coef + static_cast<int64_t>(row) * layout::NUM_COEF;
  const int32_t flags = a.code[static_cast<int64_t>(row) * layout::NUM_CODE + layout::FLAGS];
  const auto& s = shared.sums;
  const Weights found = weights({s[0][0], s[1][0], s[2][0], s[3][0], s[4][0]}, c[layout::W], c[layout::P],
                                c[layout::Q], flags, static_cast<float>(a.numel));
  a.mix[2 * sample] = found.c;
  a.mix[2 * sample + 1] = found.u;
}

template <class Output>
struct Weigh {
  using Args = WeighArgs;
  using Shared = WeighShared;
  static constexpr int PHASES = 10;  // the accumulators, 256 → 128 → … → 1, the weights

  // Whether there is anything to do for a sample; the same for all threads of its block.
  RESTART_HD static bool begins(const Args& a, int64_t sample) { return weighs(a, sample); }

  RESTART_HD static void run(const Args& a, int64_t sample, uint32_t thread, int phase, Shared& shared) {
    if (phase == 0) {
      if constexpr (std::is_same_v<Output, Elements>) accumulate(a, sample, thread, Output{a.F_dtype}, shared);
      else accumulate(a, sample, thread, Output{}, shared);
    } else if (phase < PHASES - 1) {
      const uint32_t distance = 1u << (phase - 1), first = thread * 2 * distance;
      if (first >= WEIGH_THREADS) return;
      for (int s = 0; s < SUMS; ++s) shared.sums[s][first] = shared.sums[s][first] + shared.sums[s][first + distance];
    } else if (thread == 0) {
      write_weights(a, sample, shared);
    }
  }
};

}  // namespace restart::cuda
