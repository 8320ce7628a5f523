// A few threads that share the items of one job. Not OpenMP: torch brings a runtime of its own, and two of them spin
// against each other.
#pragma once

#include <cstdint>

namespace restart::cpu {

using Work = void (*)(void *context, std::int64_t item);

// work(context, 0 … items − 1), each once, on up to `threads` threads, the caller being one. Returns when all are done.
// A caller that finds the pool busy (another Python thread is in it) does its job alone.
void run(int threads, std::int64_t items, Work work, void *context);

}  // namespace restart::cpu
