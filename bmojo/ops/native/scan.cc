// The selective scan: h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t and y_t = C_t . h_t.
//
// A block of channels is kept in cache and goes through time; channels lie in lanes. Of the
// states only those before each chunk are stored. The backward pass goes through the chunks
// against time, computes the states and decays of one again, and then the adjoint
// g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}.

#include <algorithm>

#include "exp2.h"
#include "handler.h"
#include "scratch.h"

namespace bmojo {
namespace {

constexpr int kAcross = 2;  // vectors of a block

template <typename T>
constexpr int kWidth = kAcross * kLanes<T>;  // channels of a block
static_assert(32 % kWidth<float> == 0 && 32 % kWidth<double> == 0, "scan.py: fill");

struct Sizes {
  int64_t rows, length, channels, states, chunk, chunks;
  int64_t places;  // chunks whose states are stored: all of them or none
};

// Where the operands are; see the handlers for their shapes.
template <typename T>
struct Operands {
  const T *x, *dt, *A, *B, *C;
  const bool* start;  // null: no document starts
};

// A block of channels and its constants; `rate` is A log2 e.
template <typename T>
struct Block {
  int64_t row, index, first, count;
  T *A, *rate;  // (N, kWidth)
};

template <typename T>
inline void copy_channels(T* to, const T* from, int64_t count) {
  if (count == kWidth<T>) {
    for (int v = 0; v < kAcross; ++v) store(to + v * kLanes<T>, load(from + v * kLanes<T>));
  } else {
    std::memcpy(to, from, count * sizeof(T));
  }
}

// Tokens of a chunk of (B, L, E) to (tokens, kWidth), zeros where there are no channels.
template <typename T>
void pack(T* to, const T* from, const Sizes& s, const Block<T>& block, int64_t at, int64_t tokens) {
  if (block.count < kWidth<T>) std::fill(to, to + tokens * kWidth<T>, T(0));
  from += (block.row * s.length + at) * s.channels + block.first;
  for (int64_t t = 0; t < tokens; ++t) {
    copy_channels(to + t * kWidth<T>, from + t * s.channels, block.count);
  }
}

template <typename T>
void unpack(T* to, const T* from, const Sizes& s, const Block<T>& block, int64_t at,
            int64_t tokens) {
  to += (block.row * s.length + at) * s.channels + block.first;
  for (int64_t t = 0; t < tokens; ++t) {
    copy_channels(to + t * s.channels, from + t * kWidth<T>, block.count);
  }
}

// Ask for what pack() will read for a token, or unpack() write: a block touches a few lines of each
// row only, which no processor guesses.
template <bool write, typename T>
inline void prefetch(const T* at, const Sizes& s, const Block<T>& block, int64_t token) {
  if (token < 0 || token >= s.length) return;
  at += (block.row * s.length + token) * s.channels + block.first;
  for (int v = 0; v < kAcross; ++v) __builtin_prefetch(at + v * kLanes<T>, write);
}

// (E, N) from the block's first channel on to (N, kWidth), and back.
template <typename T>
void pack_states(T* to, const T* from, const Sizes& s, int64_t count) {
  std::fill(to, to + s.states * kWidth<T>, T(0));
  for (int64_t e = 0; e < count; ++e) {
    for (int64_t n = 0; n < s.states; ++n) to[n * kWidth<T> + e] = from[e * s.states + n];
  }
}

template <typename T>
void unpack_states(T* to, const T* from, const Sizes& s, int64_t count) {
  for (int64_t e = 0; e < count; ++e) {
    for (int64_t n = 0; n < s.states; ++n) to[e * s.states + n] = from[n * kWidth<T> + e];
  }
}

template <typename T>
Block<T> make_block(const Sizes& s, const T* A, int64_t row, int64_t index, Scratch<T>& scratch) {
  const int64_t first = index * kWidth<T>;
  Block<T> block{row, index, first, std::min<int64_t>(kWidth<T>, s.channels - first),
                 scratch.take(s.states * kWidth<T>), scratch.take(s.states * kWidth<T>)};
  pack_states(block.A, A + first * s.states, s, block.count);
  for (int64_t i = 0; i < s.states * kWidth<T>; ++i) block.rate[i] = block.A[i] * T(kLog2E);
  return block;
}

template <typename T>
struct Scan {
  static constexpr int kW = kWidth<T>, kL = kLanes<T>;

  Sizes s;
  Operands<T> in;
  template <typename P>
  P place(P before, const Block<T>& block, int64_t chunk) const {
    const int64_t blocks = (s.channels + kW - 1) / kW;
    return before + ((block.row * blocks + block.index) * s.places + chunk) * s.states * kW;
  }

  void forward(const T* state, T* y, T* last, T* before, int64_t row, int64_t index) const {
    const int64_t N = s.states;
    Scratch<T> scratch((3 * N + 3 * s.chunk) * kW, 6);
    const Block<T> block = make_block(s, in.A, row, index, scratch);
    T* h = scratch.take(N * kW);
    T *x = scratch.take(s.chunk * kW), *dt = scratch.take(s.chunk * kW);
    T* out = scratch.take(s.chunk * kW);
    const int64_t corner = (row * s.channels + block.first) * N;
    pack_states(h, state + corner, s, block.count);
    for (int64_t c = 0; c < s.chunks; ++c) {
      const int64_t at = c * s.chunk, tokens = std::min(s.chunk, s.length - at);
      if (s.places) std::copy_n(h, N * kW, place(before, block, c));
      pack(x, in.x, s, block, at, tokens);
      pack(dt, in.dt, s, block, at, tokens);
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t token = row * s.length + at + t;
        prefetch<false>(in.x, s, block, at + t + s.chunk);
        prefetch<false>(in.dt, s, block, at + t + s.chunk);
        prefetch<true>(y, s, block, at + t);
        if (in.start && in.start[token]) std::fill(h, h + N * kW, T(0));
        step(block, h, x + t * kW, dt + t * kW, in.B + token * N, in.C + token * N, out + t * kW);
      }
      unpack(y, out, s, block, at, tokens);
    }
    unpack_states(last + corner, h, s, block.count);
  }

  void step(const Block<T>& block, T* h, const T* x, const T* dt, const T* B, const T* C,
            T* y) const {
    const T* const rate = block.rate;
    Vec<T> step[kAcross], input[kAcross], out[kAcross] = {};
    for (int v = 0; v < kAcross; ++v) {
      step[v] = load(dt + v * kL);
      input[v] = step[v] * load(x + v * kL);
    }
    for (int64_t n = 0; n < s.states; ++n) {
      for (int v = 0; v < kAcross; ++v) {
        const int64_t i = n * kW + v * kL;
        const Vec<T> decay = power_of_two<T>(step[v] * load(rate + i));
        const Vec<T> next = decay * load(h + i) + input[v] * B[n];
        store(h + i, next);
        out[v] += next * C[n];
      }
    }
    for (int v = 0; v < kAcross; ++v) store(y + v * kL, out[v]);
  }
};

template <typename T>
struct Gradient : Scan<T> {
  using Base = Scan<T>;
  using Base::in, Base::kL, Base::kW, Base::s;

  const T *before, *dy, *dlast;
  T *dx, *ddt, *dA, *dB, *dC, *dstate;  // of A for each row, of B and C for each group
  int64_t groups;

  // What the adjoint carries, and what is computed again for a chunk.
  struct Carried {
    T *g, *dA;       // (N, kW)
    T *h, *decay;    // (tokens + 1, N, kW), states before and after tokens; (tokens, N, kW)
    T *x, *dt, *dy;  // (tokens, kW)
  };

  // The blocks of one group, whose parts of dB and dC are added up in order.
  void run(int64_t row, int64_t group) const {
    const int64_t N = s.states, blocks = (s.channels + kW - 1) / kW;
    const int64_t first = blocks * group / groups, end = blocks * (group + 1) / groups;
    if (first == end) {
      const int64_t part = (group * s.rows + row) * s.length * N;
      std::fill(dB + part, dB + part + s.length * N, T(0));
      std::fill(dC + part, dC + part + s.length * N, T(0));
    }
    for (int64_t index = first; index < end; ++index) {
      Scratch<T> scratch((5 * N + 2 * s.chunk * N + 3 * s.chunk) * kW, 9);
      const Block<T> block = make_block(s, in.A, row, index, scratch);
      Carried c;
      c.g = scratch.take(N * kW), c.dA = scratch.take(N * kW);
      c.h = scratch.take((s.chunk + 1) * N * kW), c.decay = scratch.take(s.chunk * N * kW);
      c.x = scratch.take(s.chunk * kW), c.dt = scratch.take(s.chunk * kW);
      c.dy = scratch.take(s.chunk * kW);
      const int64_t corner = (row * s.channels + block.first) * N;
      pack_states(c.g, dlast + corner, s, block.count);
      std::fill(c.dA, c.dA + N * kW, T(0));
      std::fill(c.h, c.h + N * kW, T(0));
      for (int64_t chunk = s.chunks - 1; chunk >= 0; --chunk) {
        const int64_t at = chunk * s.chunk, tokens = std::min(s.chunk, s.length - at);
        std::copy_n(this->place(before, block, chunk), N * kW, c.h);
        pack(c.x, in.x, s, block, at, tokens);
        pack(c.dt, in.dt, s, block, at, tokens);
        pack(c.dy, dy, s, block, at, tokens);
        for (int64_t t = 0; t < tokens; ++t) {
          prefetch<false>(in.x, s, block, at + t - s.chunk);
          prefetch<false>(in.dt, s, block, at + t - s.chunk);
          prefetch<false>(dy, s, block, at + t - s.chunk);
          prefetch<true>(dx, s, block, at + t);
          prefetch<true>(ddt, s, block, at + t);
          recompute(block, c, t, row * s.length + at + t);
        }
        for (int64_t t = tokens - 1; t >= 0; --t) {
          const int64_t token = row * s.length + at + t;
          const int64_t part = (group * s.rows * s.length + token) * N;
          adjoint(block, c, t, token, dB + part, dC + part, index > first);
        }
        unpack(dx, c.x, s, block, at, tokens);
        unpack(ddt, c.dt, s, block, at, tokens);
      }
      unpack_states(dstate + corner, c.g, s, block.count);
      unpack_states(dA + corner, c.dA, s, block.count);
    }
  }

  void recompute(const Block<T>& block, const Carried& c, int64_t t, int64_t token) const {
    const int64_t N = s.states;
    const T *B = in.B + token * N, *h = c.h + t * N * kW;
    const T* const rate = block.rate;
    T *next = c.h + (t + 1) * N * kW, *decays = c.decay + t * N * kW;
    const bool first = in.start && in.start[token];
    Vec<T> step[kAcross], input[kAcross];
    for (int v = 0; v < kAcross; ++v) {
      step[v] = load(c.dt + t * kW + v * kL);
      input[v] = step[v] * load(c.x + t * kW + v * kL);
    }
    if (first) {
      std::fill(decays, decays + N * kW, T(0));
      for (int64_t n = 0; n < N; ++n) {
        for (int v = 0; v < kAcross; ++v) store(next + n * kW + v * kL, input[v] * B[n]);
      }
      return;
    }
    for (int64_t n = 0; n < N; ++n) {
      for (int v = 0; v < kAcross; ++v) {
        const int64_t i = n * kW + v * kL;
        const Vec<T> decay = power_of_two<T>(step[v] * load(rate + i));
        store(decays + i, decay);
        store(next + i, decay * load(h + i) + input[v] * B[n]);
      }
    }
  }

  // One token; x and dt give way to their derivatives.
  void adjoint(const Block<T>& block, const Carried& c, int64_t t, int64_t token, T* dB, T* dC,
               bool add) const {
    const int64_t N = s.states;
    const T *B = in.B + token * N, *C = in.C + token * N, *A = block.A;
    T *const carried = c.g, *const sum_A = c.dA;
    const T *h = c.h + t * N * kW, *next = h + N * kW, *decays = c.decay + t * N * kW;
    // Nothing passes the start of a document, not even what zero times it is not zero.
    const bool start = in.start && in.start[token];
    Vec<T> x[kAcross], step[kAcross], input[kAcross], out[kAcross];
    Vec<T> d_input[kAcross] = {}, d_step[kAcross] = {};
    for (int v = 0; v < kAcross; ++v) {
      const int64_t i = t * kW + v * kL;
      x[v] = load(c.x + i), step[v] = load(c.dt + i), out[v] = load(c.dy + i);
      input[v] = step[v] * x[v];
    }
    for (int64_t from = 0; from < N; from += kL) {
      const int64_t count = std::min<int64_t>(kL, N - from);
      Vec<T> to_B[kL], to_C[kL];
      for (int64_t j = 0; j < count; ++j) {
        const int64_t n = from + j;
        Vec<T> sum_B{}, sum_C{};
        for (int v = 0; v < kAcross; ++v) {
          const int64_t i = n * kW + v * kL;
          sum_C += load(next + i) * out[v];
          const Vec<T> g = load(carried + i) + out[v] * C[n];
          sum_B += g * input[v];
          d_input[v] += g * B[n];
          const Vec<T> g_before = start ? Vec<T>{} : g * load(decays + i);
          store(carried + i, g_before);
          if (start) continue;
          const Vec<T> d_log = g_before * load(h + i);
          d_step[v] += d_log * load(A + i);
          store(sum_A + i, load(sum_A + i) + d_log * step[v]);
        }
        to_B[j] = sum_B, to_C[j] = sum_C;
      }
      for (int64_t j = count; j < kL; ++j) to_B[j] = to_C[j] = Vec<T>{};
      Vec<T> all_B = sums<T>(to_B), all_C = sums<T>(to_C);
      if (count == kL) {
        if (add) all_B += load(dB + from), all_C += load(dC + from);
        store(dB + from, all_B), store(dC + from, all_C);
      } else {
        const int some = static_cast<int>(count);
        if (add) all_B += load_some(dB + from, some), all_C += load_some(dC + from, some);
        store_some(dB + from, all_B, some), store_some(dC + from, all_C, some);
      }
    }
    for (int v = 0; v < kAcross; ++v) {
      const int64_t i = t * kW + v * kL;
      store(c.x + i, step[v] * d_input[v]);
      store(c.dt + i, x[v] * d_input[v] + d_step[v]);
    }
  }
};

template <typename Buffer>
Sizes sizes(const Buffer& x, const Buffer& A, int64_t chunk, int64_t places) {
  const auto d = x.dimensions();
  return {d[0], d[1], d[2], A.dimensions()[1], chunk, (d[1] + chunk - 1) / chunk, places};
}

template <ffi::DataType type>
ffi::Error forward(ffi::ThreadPool pool, int64_t chunk, In<type> x, In<type> dt, In<type> A,
                   In<type> B, In<type> C, In<ffi::PRED> start, In<type> state, Out<type> y,
                   Out<type> last, Out<type> before) {
  using T = ffi::NativeType<type>;
  const Sizes s = sizes(x, A, chunk, before->dimensions()[1]);
  const Operands<T> in{x.typed_data(), dt.typed_data(), A.typed_data(),
                       B.typed_data(), C.typed_data(),  flags(start)};
  const Scan<T> scan{s, in};
  const int64_t blocks = (s.channels + kWidth<T> - 1) / kWidth<T>;
  parallel(pool, s.rows * blocks, [&](int64_t i) {
    scan.forward(state.typed_data(), y->typed_data(), last->typed_data(), before->typed_data(),
                 i / blocks, i % blocks);
  });
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error backward(ffi::ThreadPool pool, int64_t chunk, In<type> x, In<type> dt, In<type> A,
                    In<type> B, In<type> C, In<ffi::PRED> start, In<type> before, In<type> dy,
                    In<type> dlast, Out<type> dx, Out<type> ddt, Out<type> dA, Out<type> dB,
                    Out<type> dC, Out<type> dstate) {
  using T = ffi::NativeType<type>;
  const Sizes s = sizes(x, A, chunk, before.dimensions()[1]);
  const Operands<T> in{x.typed_data(), dt.typed_data(), A.typed_data(),
                       B.typed_data(), C.typed_data(),  flags(start)};
  const int64_t groups = dB->dimensions()[0];
  const Gradient<T> gradient{
      {s, in},           before.typed_data(), dy.typed_data(), dlast.typed_data(),
      dx->typed_data(),  ddt->typed_data(),   dA->typed_data(), dB->typed_data(),
      dC->typed_data(),  dstate->typed_data(), groups};
  parallel(pool, s.rows * groups, [&](int64_t i) { gradient.run(i / groups, i % groups); });
  return ffi::Error::Success();
}

// x, dt (B, L, E); A (E, N); B, C (B, L, N); start (B, L) or (B, 0); state (B, E, N);
// y (B, L, E); the last state (B, E, N); those before each chunk (B, chunks or 0, N, E filled up).
// Derivatives by A (B, E, N), by B and C (groups, B, L, N).
}  // namespace
}  // namespace bmojo

using bmojo::ffi::F32, bmojo::ffi::F64;
BMOJO_HANDLER(scan_f32, bmojo::forward<F32>, bmojo::forward_binding<F32>());
BMOJO_HANDLER(scan_f64, bmojo::forward<F64>, bmojo::forward_binding<F64>());
BMOJO_HANDLER(scan_gradient_f32, bmojo::backward<F32>, bmojo::backward_binding<F32>());
BMOJO_HANDLER(scan_gradient_f64, bmojo::backward<F64>, bmojo::backward_binding<F64>());
