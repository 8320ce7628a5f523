// Which kernel runs and how it is launched: pure functions, used for the GPU and for the host twin.
#pragma once

#include <stdexcept>

#include "row.h"
#include "weigh.h"

namespace restart::cuda {

struct Config {
  int quads;  // counters per thread
  uint32_t threads;
  uint32_t x, y, z;  // blocks
};

// Mirrors configure in restart_kernels/backends/triton.py, whose docstring has the reasons: 16 elements a thread when
// the batch fills the GPU, fewer below; of blocks of 4, 2 and 1 warps the one that pads the sample least, the largest
// at equality.
inline Config configure(int64_t numel, int64_t batch, int most_quads = 4) {
  if (numel < 1 || batch < 1 || numel >= int64_t{1} << 31 || batch >= int64_t{1} << 31)
    throw std::invalid_argument("a batch must have 1 to 2^31 - 1 samples of 1 to 2^31 - 1 elements");
  const int64_t quads = (numel + 3) / 4, total = quads * batch;
  Config best{total >= 1 << 18 ? 4 : total >= 1 << 17 ? 2 : 1, 0, 0, 0, 0};
  if (best.quads > most_quads) best.quads = most_quads;
  int64_t least = INT64_MAX;
  for (uint32_t threads : {4 * WARP, 2 * WARP, WARP}) {
    const int64_t block = static_cast<int64_t>(threads) * best.quads, blocks = (quads + block - 1) / block;
    if (blocks * block < least) {
      least = blocks * block;
      best.threads = threads;
      best.x = static_cast<uint32_t>(blocks);
    }
  }
  best.y = static_cast<uint32_t>(batch < 65535 ? batch : 65535);
  best.z = static_cast<uint32_t>((batch + best.y - 1) / best.y);
  return best;
}

inline bool aligned(const void* p, int64_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class Kernel>
struct Choice {
  using type = Kernel;
};

// Calls launch(Choice<Kernel>, args, config) with the kernel that these arguments need.
template <template <int> class Kernel, class Args, class Launch>
void with_quads(const Args& a, Launch launch) {
  const Config config = configure(a.numel, a.batch);
  if (config.quads == 4) return launch(Choice<Kernel<4>>{}, a, config);
  if (config.quads == 2) return launch(Choice<Kernel<2>>{}, a, config);
  return launch(Choice<Kernel<1>>{}, a, config);
}
template <class T>
struct Rows {
  template <int QUADS>
  using Guided = RowVectors<T, true, QUADS>;
  template <int QUADS>
  using Plain = RowVectors<T, false, QUADS>;
};
template <int QUADS>
using NormalVectors = Normal<QUADS, Vectors<float>>;

template <class T, class Launch>
void dispatch_vectors(const RowArgs& a, Launch launch) {
  if (is_wide(a)) {
    // At most two counters a thread: with four, what a row can read would take more than 128 registers.
    const Config config = configure(a.numel, a.batch, 2);
    if (config.quads == 2) return launch(Choice<WideVectors<T, 2>>{}, a, config);
    return launch(Choice<WideVectors<T, 1>>{}, a, config);
  }
  if (a.halves == 2) return with_quads<Rows<T>::template Guided>(a, launch);
  return with_quads<Rows<T>::template Plain>(a, launch);
}

template <class Launch>
void dispatch(const RowArgs& given, Launch launch) {
  if (given.batch == 0 || given.numel == 0) return;
  RowArgs a = given;
  a.served = served_flags(a);
  const int64_t F_bytes = a.F_dtype == Float::float32 ? 16 : 8, net_bytes = a.net_dtype == Float::float32 ? 16 : 8;
  const bool registers = aligned(a.x, 16) && aligned(a.h, 16) && aligned(a.h2, 16) && aligned(a.h3, 16) &&
                         aligned(a.known, 16) && aligned(a.mask, 16);
  const bool vectors = a.numel % 4 == 0 && registers && aligned(a.net_in, net_bytes) && aligned(a.F, F_bytes) &&
                       aligned(a.F_uncond, F_bytes);
  // Vectors where all tensors are aligned and the network has one dtype; one kernel for all other cases.
  if (vectors && (a.F_dtype == a.net_dtype || !a.F)) {
    if (a.net_dtype == Float::float32) return dispatch_vectors<float>(a, launch);
    if (a.net_dtype == Float::bfloat16) return dispatch_vectors<BFloat16>(a, launch);
    return dispatch_vectors<Float16>(a, launch);
  }
  const Config config = configure(a.numel, a.batch, 1);
  if (is_wide(a)) return launch(Choice<WideElements>{}, a, config);
  if (a.halves == 2) return launch(Choice<RowElements<true>>{}, a, config);
  return launch(Choice<RowElements<false>>{}, a, config);
}

// A block for each sample.
template <class Launch>
void dispatch(const WeighArgs& a, Launch launch) {
  if (a.batch == 0 || a.numel == 0) return;
  configure(a.numel, a.batch);  // for what it refuses
  const Config config{1, WEIGH_THREADS, static_cast<uint32_t>(a.batch), 1, 1};
  const int64_t bytes = a.F_dtype == Float::float32 ? 16 : 8;
  if (a.numel % 4 != 0 || !aligned(a.F, bytes) || !aligned(a.F_uncond, bytes))
    return launch(Choice<Weigh<Elements>>{}, a, config);
  if (a.F_dtype == Float::float32) return launch(Choice<Weigh<Vectors<float>>>{}, a, config);
  if (a.F_dtype == Float::bfloat16) return launch(Choice<Weigh<Vectors<BFloat16>>>{}, a, config);
  return launch(Choice<Weigh<Vectors<Float16>>>{}, a, config);
}

template <class Launch>
void dispatch(const NormalArgs& a, Launch launch) {
  if (a.batch == 0 || a.numel == 0) return;
  if (a.numel % 4 == 0 && aligned(a.out, 16)) return with_quads<NormalVectors>(a, launch);
  return launch(Choice<Normal<1, Elements>>{}, a, configure(a.numel, a.batch, 1));
}

template <class Launch>
void dispatch(const AdvanceArgs& a, Launch launch) {
  if (a.numel == 0) return;
  launch(Choice<Advance>{}, a, configure(a.numel, a.batch, 1));
}

}  // namespace restart::cuda
