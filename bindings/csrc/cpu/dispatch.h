// The kernels by instruction set, and how a batch is cut into pieces for the threads.
#pragma once

#include "kernels.h"

namespace restart::cpu {

const Kernels *chosen();                // the fastest that runs on this CPU, unless choose() was called
const Kernels *find(const char *name);  // null if this CPU or this build has none of that name
void choose(const Kernels *);

// A batch of fewer elements runs on the calling thread alone: without noise that takes about 25 µs, which is also what
// a sleeping thread needs to wake up. Measured: 49152 elements take 26 µs on one thread and 50 on two, 98304 take 70
// and 50.
constexpr std::int64_t SERIAL = 65536;

void run_row(const RowArgs &, int threads);
void normal(const NormalArgs &, int threads);
void triad(const TriadArgs &, int threads);
void weigh(const WeighArgs &, int threads);

}  // namespace restart::cpu
