// Mamba-2's recurrence in chunks: h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t.
//
// Within a chunk y = ((C B^T) o D) (dt x) with D[t, s] what is left at t of what came in at s, and
// C B^T shared by the heads; a state is carried from chunk to chunk. Matrices lie in the caches;
// states are (N, P), as most products want them. The backward pass goes through the chunks against
// time, from the states before them.
//
// Products join documents with weights of zero, which would not stop what is not finite: operands
// are made finite, and the outputs of a document from there on, and its state, are set to NaN.

#include "handler.h"
#include "ssd_chunk.h"

namespace bmojo {
namespace {

using ssd::Chunk, ssd::multiply, ssd::Operands, ssd::Sizes;

// Heads of one row, from the first token to the last.
template <typename T>
struct Forward {
  Sizes s;
  Operands<T> in;
  const T* state;
  T *y, *last, *before;

  void run(int64_t row, int64_t first, int64_t end) const {
    const int64_t each = s.states * s.wide;
    Scratch<T> scratch(Chunk<T>::size(s) + (end - first) * each + s.chunk * s.wide,
                       Chunk<T>::kArrays + 2);
    Chunk<T> c(s, in, row, scratch);
    T *hidden = scratch.take((end - first) * each), *out = scratch.take(s.chunk * s.wide);
    for (int64_t head = first; head < end; ++head) {
      transpose(hidden + (head - first) * each, s.wide,
                state + (row * s.heads + head) * s.width * s.states, s.states, s.states, s.width);
    }
    for (int64_t chunk = 0; chunk < s.chunks; ++chunk) {
      c.begin(chunk);
      for (int64_t head = first; head < end; ++head) {
        T* h = hidden + (head - first) * each;
        if (s.places) {
          std::copy_n(h, each, before + ((row * s.heads + head) * s.places + chunk) * each);
        }
        c.take(head);
        step(c, h, out);
        empty_rows(c.of_head(y, head), s.heads * s.width, out, s.width, c.tokens);
      }
    }
    for (int64_t head = first; head < end; ++head) {
      transpose(last + (row * s.heads + head) * s.width * s.states, s.states,
                hidden + (head - first) * each, s.wide, s.width, s.states);
    }
  }

  void step(Chunk<T>& c, T* h, T* out) const {
    bool lost = !clear(h, s.states * s.wide);
    multiply(c.tokens, s.wide, s.states, c.C, s.deep, int64_t(1), h, s.wide, out, s.wide, false);
    scale_rows(out, out, s.wide, c.since, c.tokens);
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t i = t * s.across; i < t * s.across + c.edge(t); i += kLanes<T>) {
        store(c.decays + i, load(c.decays + i) * load(c.scores + i));
      }
    }
    c.lower(c.decays, c.inner, s.wide, out);
    scale(h, c.kept(), s.states * s.wide);
    scale_rows(c.inner, c.inner, s.wide, c.to_end, c.tokens);
    multiply(s.states, s.wide, c.tokens, c.B, int64_t(1), s.deep, c.inner, s.wide, h, s.wide, true);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (int64_t t = 0; t < c.tokens; ++t) {
      lost = (lost && !c.starts(t)) || c.lost[t] != 0;
      if (lost) std::fill_n(out + t * s.wide, s.wide, nan);
    }
    if (lost) std::fill_n(h, s.states * s.wide, nan);
  }
};

template <typename T>
struct Backward {
  Sizes s;
  Operands<T> in;
  const T *before, *dy, *dlast;
  T *dx, *ddt, *dA, *dB, *dC, *dstate;  // of A for each row, of B and C for each group
  int64_t groups;

  // What the passes over the heads of a chunk share.
  struct Work {
    T *d_scores, *d_decays;          // triangles, of all heads and of one
    T *dB, *dC, *part;               // (chunk, deep), of all heads and of one
    T *dy, *turned, *d_inner;  // (chunk, wide), inner^T (P, across), (chunk, wide)
    T *h, *upright;                  // a state (N, wide), and transposed (P, deep)
    T *along, *rest;                 // (across)
    T* adjoint;                      // (heads, N, wide)
  };

  int64_t size(int64_t heads) const {
    return s.chunk * (2 * s.across + 3 * s.deep + 2 * s.wide) + s.width * s.across +
           (heads + 1) * s.states * s.wide + s.width * s.deep + 2 * s.across;
  }

  void run(int64_t row, int64_t group) const {
    const int64_t first = s.heads * group / groups, end = s.heads * (group + 1) / groups;
    const int64_t heads = end - first, each = s.states * s.wide;
    Scratch<T> scratch(Chunk<T>::size(s) + size(heads), Chunk<T>::kArrays + 13);
    Chunk<T> c(s, in, row, scratch);
    Work w;
    w.d_scores = scratch.take(s.chunk * s.across), w.d_decays = scratch.take(s.chunk * s.across);
    w.dB = scratch.take(s.chunk * s.deep), w.dC = scratch.take(s.chunk * s.deep);
    w.part = scratch.take(s.chunk * s.deep);
    w.dy = scratch.take(s.chunk * s.wide), w.turned = scratch.take(s.width * s.across);
    w.d_inner = scratch.take(s.chunk * s.wide);
    w.h = scratch.take(each), w.upright = scratch.take(s.width * s.deep);
    w.along = scratch.take(s.across), w.rest = scratch.take(s.across);
    w.adjoint = scratch.take(heads * each);
    const auto of_state = [&](auto* states, int64_t head) {
      return states + (row * s.heads + head) * s.width * s.states;
    };
    for (int64_t head = first; head < end; ++head) {
      transpose(w.adjoint + (head - first) * each, s.wide, of_state(dlast, head), s.states,
                s.states, s.width);
      clear(w.adjoint + (head - first) * each, each);
      dA[row * s.heads + head] = 0;
    }
    for (int64_t chunk = s.chunks - 1; chunk >= 0; --chunk) {
      c.begin(chunk);
      std::fill_n(w.d_scores, c.tokens * s.across, T(0));
      std::fill_n(w.dB, c.tokens * s.deep, T(0));
      std::fill_n(w.dC, c.tokens * s.deep, T(0));
      for (int64_t head = first; head < end; ++head) {
        c.take(head);
        std::copy_n(before + ((row * s.heads + head) * s.chunks + chunk) * each, each, w.h);
        clear(w.h, each);
        one_head(c, w, head, w.adjoint + (head - first) * each);
      }
      c.lower(w.d_scores, c.B, s.deep, w.dC);
      c.upper(w.d_scores, c.C, s.deep, w.dB);
      const int64_t part = (group * s.rows * s.length + c.token(0)) * s.states;
      empty_rows(dB + part, s.states, w.dB, s.states, c.tokens);
      empty_rows(dC + part, s.states, w.dC, s.states, c.tokens);
    }
    for (int64_t head = first; head < end; ++head) {
      transpose(of_state(dstate, head), s.states, w.adjoint + (head - first) * each, s.wide,
                s.width, s.states);
    }
  }

  // g: the derivative by the state after the chunk, then by the one before.
  void one_head(Chunk<T>& c, const Work& w, int64_t head, T* g) const {
    const int64_t n = c.tokens, apart = s.heads * s.width;
    fill_rows(w.dy, c.of_head(dy, head), apart, s.width, n);
    transpose(w.turned, s.across, c.inner, s.wide, s.width, n);
    c.products(w.dy, s.wide, s.width, w.turned, w.d_decays);
    triangles(c, w);

    // Through the state after the chunk.
    multiply(n, s.wide, s.states, c.B, s.deep, int64_t(1), g, s.wide, w.d_inner, s.wide, false);
    scale_rows(w.d_inner, w.d_inner, s.wide, c.to_end, n);
    T by_end = 0;
    for (int64_t t = 0; t < n; ++t) {
      w.rest[t] += by_end;
      by_end += dot(w.d_inner + t * s.wide, c.inner + t * s.wide, s.wide);
    }
    c.upper(c.decays, w.dy, s.wide, w.d_inner);
    transpose(w.upright, s.deep, g, s.wide, s.width, s.states);
    scale_rows(c.inner, c.inner, s.wide, c.to_end, n);
    multiply(n, s.deep, s.width, c.inner, s.wide, int64_t(1), w.upright, s.deep, w.dB, s.deep,
             true);

    // Through the state before it.
    transpose(w.upright, s.deep, w.h, s.wide, s.width, s.states);
    scale_rows(w.dy, w.dy, s.wide, c.since, n);
    multiply(n, s.deep, s.width, w.dy, s.wide, int64_t(1), w.upright, s.deep, w.part, s.deep,
             false);
    T since = c.kept() * dot(w.h, g, s.states * s.wide);
    for (int64_t t = n - 1; t >= 0; --t) {
      since += dot(w.part + t * s.deep, c.C + t * s.deep, s.deep);
      w.rest[t] += since;
    }
    for (int64_t i = 0; i < n * s.deep; i += kLanes<T>) {
      store(w.dC + i, load(w.dC + i) + load(w.part + i));
    }
    scale(g, c.kept(), s.states * s.wide);
    multiply(s.states, s.wide, n, c.C, int64_t(1), s.deep, w.dy, s.wide, g, s.wide, true);

    T by_rate = 0;
    for (int64_t t = 0; t < n; ++t) {
      by_rate += w.rest[t] * c.dt[t];
      ddt[c.token(t) * s.heads + head] =
          w.rest[t] * in.A[head] + dot(c.x + t * s.wide, w.d_inner + t * s.wide, s.wide);
    }
    dA[c.row * s.heads + head] += by_rate;
    scale_rows(w.d_inner, w.d_inner, s.wide, c.dt, n);
    empty_rows(c.of_head(dx, head), apart, w.d_inner, s.width, n);
  }

  // From derivatives by (C B^T) o D: those by C B^T, added up; those by the steps of the exponents,
  // in `rest`; and D becomes the product.
  void triangles(Chunk<T>& c, const Work& w) const {
    std::fill_n(w.along, s.across, T(0));
    for (int64_t t = c.tokens - 1; t >= 0; --t) {
      const int64_t row = t * s.across;
      // The step at t is part of the exponents [r, s] with s < t <= r; `along` has the sums over r.
      for (int64_t i = 0; i < c.edge(t); i += kLanes<T>) {
        const Vec<T> D = load(c.decays + row + i), both = D * load(c.scores + row + i);
        const Vec<T> by_both = load(w.d_decays + row + i);
        store(w.d_scores + row + i, load(w.d_scores + row + i) + by_both * D);
        store(c.decays + row + i, both);
        store(w.along + i, load(w.along + i) + by_both * both);
      }
      w.rest[t] = total(w.along, t);
    }
  }
};

template <typename T, typename Buffer>
Sizes sizes(const Buffer& x, const Buffer& B, int64_t chunk, int64_t places) {
  const auto d = x.dimensions();
  const int64_t states = B.dimensions()[2];
  return {d[0], d[1], d[2], d[3], states, chunk, (d[1] + chunk - 1) / chunk, places,
          whole<T>(d[3]), whole<T>(states), whole<T>(chunk)};
}

template <ffi::DataType type>
ffi::Error forward(ffi::ThreadPool pool, int64_t chunk, In<type> x, In<type> dt, In<type> A,
                   In<type> B, In<type> C, In<ffi::PRED> start, In<type> state, Out<type> y,
                   Out<type> last, Out<type> before) {
  using T = ffi::NativeType<type>;
  const Sizes s = sizes<T>(x, B, chunk, before->dimensions()[2]);
  const Forward<T> pass{s,
                        {x.typed_data(), dt.typed_data(), A.typed_data(), B.typed_data(),
                         C.typed_data(), flags(start)},
                        state.typed_data(), y->typed_data(), last->typed_data(),
                        before->typed_data()};
  // As few groups of heads as keep all threads at work: each computes C B^T for itself.
  const int64_t groups = std::clamp<int64_t>(pool.num_threads() / s.rows, 1, s.heads);
  parallel(pool, s.rows * groups, [&](int64_t i) {
    const int64_t group = i % groups;
    pass.run(i / groups, s.heads * group / groups, s.heads * (group + 1) / groups);
  });
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error backward(ffi::ThreadPool pool, int64_t chunk, In<type> x, In<type> dt, In<type> A,
                    In<type> B, In<type> C, In<ffi::PRED> start, In<type> before, In<type> dy,
                    In<type> dlast, Out<type> dx, Out<type> ddt, Out<type> dA, Out<type> dB,
                    Out<type> dC, Out<type> dstate) {
  using T = ffi::NativeType<type>;
  const Sizes s = sizes<T>(x, B, chunk, before.dimensions()[2]);
  const int64_t groups = dB->dimensions()[0];
  const Backward<T> pass{s,
                         {x.typed_data(), dt.typed_data(), A.typed_data(), B.typed_data(),
                          C.typed_data(), flags(start)},
                         before.typed_data(), dy.typed_data(), dlast.typed_data(),
                         dx->typed_data(), ddt->typed_data(), dA->typed_data(), dB->typed_data(),
                         dC->typed_data(), dstate->typed_data(), groups};
  parallel(pool, s.rows * groups, [&](int64_t i) { pass.run(i / groups, i % groups); });
  return ffi::Error::Success();
}

// x (B, L, H, P); dt (B, L, H); A (H); B, C (B, L, N); start (B, L) or (B, 0); state (B, H, P, N);
// y (B, L, H, P); the last state; those before each chunk (B, H, chunks or 0, N, P filled up).
// Derivatives by A (B, H), by B and C (groups, B, L, N).
}  // namespace
}  // namespace bmojo

using bmojo::ffi::F32, bmojo::ffi::F64;
BMOJO_HANDLER(ssd_f32, bmojo::forward<F32>, bmojo::forward_binding<F32>());
BMOJO_HANDLER(ssd_f64, bmojo::forward<F64>, bmojo::forward_binding<F64>());
BMOJO_HANDLER(ssd_gradient_f32, bmojo::backward<F32>, bmojo::backward_binding<F32>());
BMOJO_HANDLER(ssd_gradient_f64, bmojo::backward<F64>, bmojo::backward_binding<F64>());
