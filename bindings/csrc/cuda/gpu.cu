// The kernels on the GPU: kernels.h, row.h and weigh.h have the work of a thread, launch.h chooses the kernel and the
// number of threads.
#include <cuda_runtime_api.h>

#include <string>

#include "gpu.h"
#include "launch.h"

namespace restart::cuda {
namespace {

template <class Kernel>
__global__ void __launch_bounds__(4 * WARP) run(const __grid_constant__ typename Kernel::Args args) {
  const Place at = locate(Kernel::QUADS, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.y, blockDim.x, threadIdx.x);
  if (at.sample < args.batch) Kernel::run(args, at);
}

// A kernel in phases, one block for each sample.
template <class Kernel>
__global__ void __launch_bounds__(WEIGH_THREADS) run_block(const __grid_constant__ typename Kernel::Args args) {
  __shared__ typename Kernel::Shared shared;
  const int64_t sample = blockIdx.x;
  if (!Kernel::begins(args, sample)) return;
  for (int phase = 0; phase < Kernel::PHASES; ++phase) {
    if (phase > 0) __syncthreads();
    Kernel::run(args, sample, threadIdx.x, phase, shared);
  }
}

void check(cudaError_t error) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

// While an object of this class lives, `device` is the current device.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_));
    if (before_ == device) before_ = -1;
    else check(cudaSetDevice(device));
  }
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = -1;
};

// One kernel launch and nothing else, so it is legal in a stream capture.
template <class Args>
void launch_on(const Args& args, int device, cudaStream_t stream) {
  const OnDevice guard(device);
  dispatch(args, [stream](auto choice, const Args& a, const Config& config) {
    run<typename decltype(choice)::type><<<dim3(config.x, config.y, config.z), config.threads, 0, stream>>>(a);
    check(cudaGetLastError());
  });
}

}  // namespace

void launch(const RowArgs& args, int device, cudaStream_t stream) { launch_on(args, device, stream); }
void launch(const WeighArgs& args, int device, cudaStream_t stream) {
  const OnDevice guard(device);
  dispatch(args, [stream](auto choice, const WeighArgs& a, const Config& config) {
    run_block<typename decltype(choice)::type><<<config.x, config.threads, 0, stream>>>(a);
    check(cudaGetLastError());
  });
}

void launch(const AdvanceArgs& args, int device, cudaStream_t stream) { launch_on(args, device, stream); }
void launch(const NormalArgs& args, int device, cudaStream_t stream) { launch_on(args, device, stream); }

}  // namespace restart::cuda
