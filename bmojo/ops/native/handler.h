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

}  // namespace bmojo
