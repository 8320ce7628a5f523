// The kernels by instruction set, and how a batch is cut into pieces for the threads.
#pragma once

#include "kernels.h"

namespace restart::cpu {

const Kernels *chosen();                // what this CPU does fastest, unless choose() said otherwise
const Kernels *find(const char *name);  // null if this CPU or this build has none of that name
void choose(const Kernels *);

// A batch of fewer elements is done by the calling thread alone: it takes about 25 µs without noise, and a sleeping thread
// wakes up about then. Measured with two threads: 49152 elements 26 µs alone and 50 together, 98304 elements 70 and 50.
constexpr std::int64_t SERIAL = 65536;

void step(const StepArgs &, int threads);
void normal(const NormalArgs &, int threads);
void triad(const TriadArgs &, int threads);

}  // namespace restart::cpu
