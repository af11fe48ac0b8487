// How a kernel is shown to XLA, and work that the threads of XLA's pool share.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

// BMOJO_HANDLER(name, function, binding): on a line of its own that begins with it, since
// library.py reads the names there.
#define BMOJO_HANDLER(name, function, binding) \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, binding)

namespace bmojo {

namespace ffi = xla::ffi;

template <ffi::DataType type>
using In = ffi::Buffer<type>;

template <ffi::DataType type>
using Out = ffi::ResultBuffer<type>;

// A binding with `count` further operands, or results, of one type.
template <int count, ffi::DataType type, typename Binding>
auto takes(Binding&& binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Arg<In<type>>();
  } else {
    return takes<count - 1, type>(std::move(binding).template Arg<In<type>>());
  }
}

template <int count, ffi::DataType type, typename Binding>
auto gives(Binding&& binding) {
  if constexpr (count == 1) {
    return std::move(binding).template Ret<ffi::Buffer<type>>();
  } else {
    return gives<count - 1, type>(std::move(binding).template Ret<ffi::Buffer<type>>());
  }
}

// Of a recurrence: sizes in x, dt, A, B, C, start and a state; y, the last state, and the states
// before each chunk.
template <ffi::DataType type>
auto forward_binding() {
  return gives<3, type>(takes<1, type>(takes<1, ffi::PRED>(
      takes<5, type>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("chunk")))));
}

// The same with the states before each chunk, dy and the last state's derivative in place of the
// state; the derivatives by x, dt, A, B, C and the state, those by A, B and C to be added up over
// the axes in front that these lack.
template <ffi::DataType type>
auto backward_binding() {
  return gives<6, type>(takes<3, type>(takes<1, ffi::PRED>(
      takes<5, type>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("chunk")))));
}

template <typename Flags>
const bool* flags(const Flags& start) {
  return start.element_count() ? start.typed_data() : nullptr;
}

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
