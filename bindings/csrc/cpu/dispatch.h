// The kernels by instruction set, and how a batch is cut into pieces for the threads.
#pragma once

#include "kernels.h"

namespace restart::cpu {

const Kernels *chosen();                // what this CPU does fastest, unless choose() said otherwise
const Kernels *find(const char *name);  // null if this CPU or this build has none of that name
void choose(const Kernels *);

// A batch of fewer elements is done by the calling thread alone: waking another takes longer.
constexpr std::int64_t SERIAL = 32768;

void step(const StepArgs &, int threads);
void normal(const NormalArgs &, int threads);
void triad(const TriadArgs &, int threads);

}  // namespace restart::cpu
