// A few threads that share the items of one job. Not OpenMP: torch brings a runtime of its own, and two runtimes spin
// against each other.
#pragma once

#include <cstdint>

namespace restart::cpu {

using Work = void (*)(void *context, std::int64_t item);

// Calls work(context, i) once for each i from 0 to items − 1, on up to `threads` threads, of which the caller is one.
// Returns when all are done. A caller that finds the pool busy with another Python thread's job does its own alone.
void run(int threads, std::int64_t items, Work work, void *context);

}  // namespace restart::cpu
