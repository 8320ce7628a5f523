#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "float_environment.h"

namespace restart::cpu {
namespace {

// After a job a worker polls for the next one this long and then sleeps. That is long enough for the next call of a
// loop without a network, and short compared with a network, whose threads need the core.
constexpr auto SPIN = std::chrono::microseconds(20);
constexpr int MAX_WORKERS = 255;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Items that one thread takes before it helps the others; on a cache line of its own.
struct alignas(64) Range {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
};

class Pool {
public:
    void run(int threads, std::int64_t items, Work work, void *context) {
        std::unique_lock<std::mutex> only(running_, std::try_to_lock);
        if (!only.owns_lock()) {
            for (std::int64_t i = 0; i < items; ++i) work(context, i);
            return;
        }
        threads = std::min(threads, MAX_WORKERS + 1);
        grow(threads - 1);
        work_ = work;
        context_ = context;
        threads_ = threads;
        for (int i = 0; i < threads; ++i) {
            ranges_[i].next.store(items * i / threads, std::memory_order_relaxed);
            ranges_[i].end = items * (i + 1) / threads;
        }
        open_.store(true);
        signal_.fetch_add(1);
        if (sleepers_.load() > 0) {
            { std::lock_guard<std::mutex> lock(sleeping_); }
            wake_.notify_all();
        }
        take(0);
        // A worker first counts itself in and then looks whether the job is open; here it is the other way round. So
        // either the worker sees the job closed, or it is waited for, and a worker that wakes up late costs nothing.
        open_.store(false);
        for (int i = 0; inside_.load() != 0; ++i) i < 1000 ? relax() : std::this_thread::yield();
    }

private:
    void grow(int workers) {
        for (; workers_ < workers && workers_ < MAX_WORKERS; ++workers_) {
            try {
                std::thread([this, index = workers_, seen = signal_.load()] { serve(index, seen); }).detach();
            } catch (const std::system_error &) {
                return;  // the system gives no more threads: those there are do the job
            }
        }
    }

    // Works first on this thread's own items, the same part of a batch in every call and so still in its cache, and
    // then on items that the others have not begun.
    void take(int me) {
        for (int k = 0; k < threads_; ++k) {
            Range &r = ranges_[(me + k) % threads_];
            for (std::int64_t i; (i = r.next.fetch_add(1, std::memory_order_relaxed)) < r.end;) work_(context_, i);
        }
    }

    void serve(int index, std::uint32_t seen) {
        const DefaultFloatEnvironment environment;
        for (;;) {
            await(seen);
            seen = signal_.load();
            inside_.fetch_add(1);
            if (open_.load() && index + 1 < threads_) take(index + 1);
            inside_.fetch_sub(1);
        }
    }

    // Waits until the signal is no longer `seen`.
    void await(std::uint32_t seen) {
        const auto until = std::chrono::steady_clock::now() + SPIN;
        do {
            for (int i = 0; i < 32; ++i) {
                if (signal_.load(std::memory_order_relaxed) != seen) return;
                relax();
            }
        } while (std::chrono::steady_clock::now() < until);
        std::unique_lock<std::mutex> lock(sleeping_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return signal_.load() != seen; });
        sleepers_.fetch_sub(1);
    }

    std::mutex running_, sleeping_;
    std::condition_variable wake_;
    int workers_ = 0;  // under running_, as are the next four while the job is closed
    Work work_ = nullptr;
    void *context_ = nullptr;
    int threads_ = 0;
    Range ranges_[MAX_WORKERS + 1];
    alignas(64) std::atomic<std::uint32_t> signal_{0};
    std::atomic<bool> open_{false};
    std::atomic<int> inside_{0}, sleepers_{0};
};

// Never deleted: at exit its threads may still sleep in it. A forked child has none of these threads and perhaps a
// locked mutex, so it drops the pool and makes its own.
std::atomic<Pool *> current{nullptr};

Pool &pool() {
    Pool *p = current.load(std::memory_order_acquire);
    if (p) return *p;
    auto *made = new Pool;
    if (current.compare_exchange_strong(p, made)) return *made;
    delete made;
    return *p;
}

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
#endif

}  // namespace

void run(int threads, std::int64_t items, Work work, void *context) {
    const DefaultFloatEnvironment environment;
    if (threads > items) threads = static_cast<int>(items);
    if (threads > 1) return pool().run(threads, items, work, context);
    for (std::int64_t i = 0; i < items; ++i) work(context, i);
}

}  // namespace restart::cpu
