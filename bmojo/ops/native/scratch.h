// Memory that a thread keeps from one call to the next.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes)
#endif

namespace bmojo {

// Arrays cut one after the other from a block of the calling thread's.
//
// The block stays with the thread and only grows, so that no call waits for pages. A thread uses
// one Scratch at a time.
template <typename T>
class Scratch {
 public:
  // `count`: elements of all arrays together; `arrays`: how many there are, at most.
  Scratch(std::size_t count, std::size_t arrays) {
    const std::size_t bytes = (count + arrays * kAligned) * sizeof(T);
    Block& mine = block();
    if (mine.bytes < bytes) {
      std::free(mine.start);
      mine.start = nullptr;
      mine.bytes = 0;
      const std::size_t whole = (bytes + kPage - 1) / kPage * kPage;
      mine.start = std::aligned_alloc(64, whole);
      if (mine.start == nullptr) throw std::bad_alloc();
      mine.bytes = whole;
    }
    next_ = static_cast<T*>(mine.start);
    ASAN_POISON_MEMORY_REGION(mine.start, mine.bytes);
  }

  // An array of so many elements, which holds anything.
  T* take(std::size_t count) {
    T* taken = next_;
    ASAN_UNPOISON_MEMORY_REGION(taken, count * sizeof(T));
    next_ += (count + kAligned - 1) / kAligned * kAligned;
    return taken;
  }

 private:
  static constexpr std::size_t kAligned = 64 / sizeof(T);
  static constexpr std::size_t kPage = 4096;

  struct Block {
    void* start = nullptr;
    std::size_t bytes = 0;
    ~Block() { std::free(start); }
  };

  static Block& block() {
    static thread_local Block mine;
    return mine;
  }

  T* next_;
};

}  // namespace bmojo
