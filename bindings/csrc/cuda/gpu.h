// The launch functions of gpu.cu. A launch allocates nothing and waits for nothing; it throws the error that CUDA
// reports.
#pragma once

#include "row.h"
#include "weigh.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace restart::cuda {

void launch(const RowArgs& args, int device, CUstream_st* stream);
void launch(const WeighArgs& args, int device, CUstream_st* stream);
void launch(const AdvanceArgs& args, int device, CUstream_st* stream);
void launch(const NormalArgs& args, int device, CUstream_st* stream);

}  // namespace restart::cuda
