// The launch functions of step.cu. A launch allocates nothing and waits for nothing; it throws what CUDA reports.
#pragma once

#include "kernels.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace restart::cuda {

void launch(const StepArgs& args, int device, CUstream_st* stream);
void launch(const AdvanceArgs& args, int device, CUstream_st* stream);
void launch(const NormalArgs& args, int device, CUstream_st* stream);

}  // namespace restart::cuda
