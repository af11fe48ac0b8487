// How a kernel is shown to XLA.

#pragma once

#include "parallel.h"
#include "simd.h"

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

}  // namespace bmojo
