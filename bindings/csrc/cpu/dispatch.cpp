#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>

#include "pool.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace restart::cpu {
namespace {

bool runs(const Kernels &k) {
    if (!k.name) return false;
#if defined(__x86_64__)
    if (&k == &portable) return true;
    unsigned a, b, c = 0, d;
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    return &k == &avx2 || (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
#else
    return &k == &portable;
#endif
}

const Kernels *const FASTEST_FIRST[] = {&avx512, &avx2, &portable};

std::atomic<const Kernels *> choice{nullptr};

// Elements of one item: 16 µs at the bandwidth of one core. That is short enough for the threads to end together, and
// many times what it costs to fetch an item.
constexpr std::int64_t PIECE = 16384;
static_assert(PIECE % BLOCK == 0);

template <class Args>
struct Job {
    const Args *args;
    void (*kernel)(const Args &, std::int64_t, std::int64_t, std::int64_t);
    std::int64_t pieces;   // per sample
    std::int64_t samples;  // per item, when a sample is one piece

    static void work(void *context, std::int64_t item) {
        const Job &job = *static_cast<const Job *>(context);
        const Args &a = *job.args;
        if (job.pieces == 1) {
            const std::int64_t end = std::min(a.batch, (item + 1) * job.samples);
            for (std::int64_t b = item * job.samples; b < end; ++b) job.kernel(a, b, 0, a.numel);
        } else {
            const std::int64_t first = item % job.pieces * PIECE;
            job.kernel(a, item / job.pieces, first, std::min(a.numel, first + PIECE));
        }
    }
};

template <class Args>
void cut(const Args &a, void (*kernel)(const Args &, std::int64_t, std::int64_t, std::int64_t), int threads) {
    if (a.batch <= 0 || a.numel <= 0) return;
    Job<Args> job{&a, kernel, (a.numel + PIECE - 1) / PIECE, 1};
    if (job.pieces == 1) job.samples = std::max<std::int64_t>(1, PIECE / a.numel);
    const std::int64_t items = job.pieces == 1 ? (a.batch + job.samples - 1) / job.samples : a.batch * job.pieces;
    run(a.batch * a.numel < SERIAL ? 1 : threads, items, Job<Args>::work, &job);
}

}  // namespace

const Kernels *find(const char *name) {
    for (const Kernels *k : FASTEST_FIRST)
        if (runs(*k) && !std::strcmp(k->name, name)) return k;
    return nullptr;
}

const Kernels *chosen() {
    const Kernels *k = choice.load(std::memory_order_relaxed);
    if (!k) {
        const auto runs_here = [](const Kernels *p) { return runs(*p); };
        k = *std::find_if(std::begin(FASTEST_FIRST), std::end(FASTEST_FIRST), runs_here);
        choice.store(k, std::memory_order_relaxed);
    }
    return k;
}

void choose(const Kernels *k) { choice.store(k, std::memory_order_relaxed); }

void run_row(const RowArgs &a, int threads) { cut(a, chosen()->run_row, threads); }
void normal(const NormalArgs &a, int threads) { cut(a, chosen()->normal, threads); }
void triad(const TriadArgs &a, int threads) { cut(a, chosen()->triad, threads); }

void weigh(const WeighArgs &a, int threads) {
    if (a.batch <= 0 || a.numel <= 0) return;
    const auto work = [](void *args, std::int64_t b) { chosen()->weigh(*static_cast<const WeighArgs *>(args), b); };
    run(a.batch * a.numel < SERIAL ? 1 : threads, a.batch, work, const_cast<WeighArgs *>(&a));
}

}  // namespace restart::cpu
