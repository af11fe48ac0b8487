// Work shared by the threads of XLA's pool.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace bmojo {

// Calls work(i) for every i < count, on the calling thread and on idle ones of the pool.
//
// The caller takes what is left, so that it never waits for a thread that has not begun: calls
// from within the pool cannot block each other. Which thread takes which i is left open; work must
// write to places of its own.
template <typename Work>
void parallel(xla::ffi::ThreadPool& pool, int64_t count, const Work& work) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto shared = std::make_shared<Shared>();
  // A thread that comes too late finds nothing left, and does not touch `work`.
  auto take = [shared, count, &work] {
    for (int64_t i = shared->next++; i < count; i = shared->next++) {
      work(i);
      if (++shared->done == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->finished.notify_all();
      }
    }
  };
  const int64_t threads = pool.num_threads();
  for (int64_t i = 1; i < (threads < count ? threads : count); ++i) pool.Schedule([take] { take(); });
  take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == count; });
}

}  // namespace bmojo
