// The kernels on the GPU: kernels.h has the work of a thread, launch.h chooses the kernel and the number of threads.
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
void launch(const AdvanceArgs& args, int device, cudaStream_t stream) { launch_on(args, device, stream); }
void launch(const NormalArgs& args, int device, cudaStream_t stream) { launch_on(args, device, stream); }

}  // namespace restart::cuda
