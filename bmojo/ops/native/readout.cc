// Verbatim read-out: sums of the exponentials of scores, by the token that entries answer with.
//
// s_ti = q_t . k_i + sum_n bias_n [own hash n of t = hash n of i], over the entries
// place_t - reach_t <= i < place_t. A block of queries keeps its scores in a core's caches; the
// backward pass computes them again. As in ops/readout.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "exp2.h"
#include "handler.h"
#include "matrix.h"
#include "scratch.h"

namespace bmojo {
namespace {

constexpr int64_t kQueries = 32;  // of a block

template <typename T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

template <typename T>
struct Call {
  int64_t rows, length, entries, stride, width, orders;
  const T *q, *k, *turned, *bias;  // turned: (rows, width, stride), entries and then zeros
  const int32_t *place, *reach, *targets, *answers, *hashes, *own;

  int64_t blocks() const { return (length + kQueries - 1) / kQueries; }
};

// The largest of x[0 .. n).
template <typename T>
T most(const T* x, int64_t n) {
  T found = kNothing<T>;
  int64_t i = 0;
  if (n >= kLanes<T>) {
    Vec<T> many = load(x);
    for (i = kLanes<T>; i + kLanes<T> <= n; i += kLanes<T>) {
      const Vec<T> next = load(x + i);
      many = next > many ? next : many;
    }
    found = largest<T>(many);
  }
  for (; i < n; ++i) found = std::max(found, x[i]);
  return found;
}

// e[i] = exp(s[i] - shift) for i < n.
template <typename T>
void exponentials(T* e, const T* s, int64_t n, T shift) {
  const T log2e = static_cast<T>(kLog2E);
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>)
    store(e + i, power_of_two<T>((load(s + i) - shift) * log2e));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_some(e + i, power_of_two<T>((load_some(s + i, rest) - shift) * log2e), rest);
  }
}

// Queries first .. end of one row, with the scores of the entries from .. to.
template <typename T>
struct Block {
  const Call<T>& c;
  int64_t row, first, count, from, to, across;
  T *s, *e, *part;

  static int64_t size(const Call<T>& c) {
    return kQueries * whole<T>(c.entries) + 2 * whole<T>(c.entries);
  }

  Block(const Call<T>& c, int64_t row, int64_t block, Scratch<T>& scratch) : c(c), row(row) {
    first = block * kQueries, count = std::min(kQueries, c.length - first);
    from = c.entries, to = 0;
    for (int64_t t = 0; t < count; ++t) {
      if (!reach(t)) continue;
      from = std::min(from, place(t) - reach(t)), to = std::max(to, place(t));
    }
    if (to < from) from = to;
    across = whole<T>(to - from);
    s = scratch.take(kQueries * whole<T>(c.entries));
    e = scratch.take(whole<T>(c.entries)), part = scratch.take(whole<T>(c.entries));
    if (across == 0) return;
    product(count, across, c.width, q(), c.width, int64_t(1),
            c.turned + row * c.width * c.stride + from, c.stride, s, across, false);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t n = 0; n < c.orders; ++n) {
        const int32_t *hash = hashes(n), mine = own(t, n);
        const T bias = c.bias[n];
        T* scores = s + t * across;
        const int64_t first_read = begin(t), last = end(t);
        for (int64_t i = first_read; i < last; ++i) scores[i] += hash[i] == mine ? bias : T(0);
      }
    }
  }

  int64_t at(int64_t t) const { return row * c.length + first + t; }
  int64_t place(int64_t t) const { return c.place[at(t)]; }
  int64_t reach(int64_t t) const { return std::min<int64_t>(c.reach[at(t)], place(t)); }
  int64_t begin(int64_t t) const { return place(t) - reach(t) - from; }
  int64_t end(int64_t t) const { return place(t) - from; }
  const T* q() const { return c.q + (row * c.length + first) * c.width; }
  const int32_t* hashes(int64_t n) const { return c.hashes + (row * c.orders + n) * c.entries + from; }
  int32_t own(int64_t t, int64_t n) const {
    return c.own[(row * c.orders + n) * c.length + first + t];
  }
  const int32_t* answers() const { return c.answers + row * c.entries + from; }

  // part[i] = x[i] where entry i answers with the token, else `other`.
  void answering(const T* x, int64_t t, int32_t token, T other) const {
    const int32_t* answer = answers();
    for (int64_t i = begin(t); i < end(t); ++i) part[i] = answer[i] == token ? x[i] : other;
  }

  // log sum exp of n scores; e holds the exponentials of their differences from the largest.
  T log_sum_exp(const T* scores, int64_t n, T* e) const {
    const T peak = most(scores, n);
    if (peak == kNothing<T>) return peak;
    exponentials(e, scores, n, peak);
    return peak + std::log(total(e, n));
  }
};

template <typename T>
void forward(ffi::ThreadPool& pool, const Call<T>& c, T* right, T* lse) {
  parallel(pool, c.rows * c.blocks(), [&](int64_t task) {
    Scratch<T> scratch(Block<T>::size(c), 3);
    const Block<T> b(c, task / c.blocks(), task % c.blocks(), scratch);
    for (int64_t t = 0; t < b.count; ++t) {
      const T* scores = b.s + t * b.across;
      const int64_t begin = b.begin(t), n = b.reach(t);
      lse[b.at(t)] = right[b.at(t)] = kNothing<T>;
      if (n == 0) continue;
      lse[b.at(t)] = b.log_sum_exp(scores + begin, n, b.e + begin);
      b.answering(scores, t, c.targets[b.at(t)], kNothing<T>);
      right[b.at(t)] = b.log_sum_exp(b.part + begin, n, b.part + begin);
    }
  });
}

// Derivatives by q, k and bias from those by `right` and `lse`; of k and bias one for each of
// `groups` parts of the blocks, to be added up.
template <typename T>
void backward(ffi::ThreadPool& pool, const Call<T>& c, const T* right, const T* lse,
              const T* d_right, const T* d_lse, int64_t groups, T* dq, T* dk, T* d_bias) {
  parallel(pool, c.rows * groups, [&](int64_t task) {
    const int64_t row = task / groups, group = task % groups;
    T* own_k = dk + (group * c.rows + row) * c.entries * c.width;
    T* own_bias = d_bias + (group * c.rows + row) * c.orders;
    std::fill_n(own_k, c.entries * c.width, T(0));
    std::fill_n(own_bias, c.orders, T(0));
    const int64_t last = c.blocks() * (group + 1) / groups;
    for (int64_t block = c.blocks() * group / groups; block < last; ++block) {
      Scratch<T> scratch(Block<T>::size(c), 3);
      const Block<T> b(c, row, block, scratch);
      T* own_q = dq + b.at(0) * c.width;
      if (b.across == 0) {
        std::fill_n(own_q, b.count * c.width, T(0));
        continue;
      }
      for (int64_t t = 0; t < b.count; ++t) {
        T* scores = b.s + t * b.across;
        const int64_t at = b.at(t), begin = b.begin(t), end = b.end(t);
        if (begin < end) {
          // d s_i = d_lse w_i + d_right v_i, v being the weights among the answers alone.
          exponentials(b.e + begin, scores + begin, end - begin, lse[at]);
          const bool some = right[at] > kNothing<T>;
          if (some) {
            b.answering(scores, t, c.targets[at], kNothing<T>);
            exponentials(b.part + begin, b.part + begin, end - begin, right[at]);
          }
          const T all = d_lse[at], same = some ? d_right[at] : T(0);
          for (int64_t i = begin; i < end; ++i)
            scores[i] = all * b.e[i] + (some ? same * b.part[i] : T(0));
          for (int64_t n = 0; n < c.orders; ++n) {
            const int32_t *hash = b.hashes(n), mine = b.own(t, n);
            for (int64_t i = begin; i < end; ++i) b.part[i] = hash[i] == mine ? scores[i] : T(0);
            own_bias[n] += total(b.part + begin, end - begin);
          }
        } else {
          std::fill_n(scores, b.across, T(0));
          continue;
        }
        std::fill(scores, scores + begin, T(0));
        std::fill(scores + end, scores + b.across, T(0));
      }
      product(b.count, c.width, b.to - b.from, b.s, b.across, int64_t(1),
              c.k + (row * c.entries + b.from) * c.width, c.width, own_q, c.width, false);
      product(b.to - b.from, c.width, b.count, b.s, int64_t(1), b.across, b.q(), c.width,
              own_k + b.from * c.width, c.width, true);
    }
  });
}

// c_t(v) for all `words` tokens v.
template <typename T>
void distribution(ffi::ThreadPool& pool, const Call<T>& c, int64_t words, T* copied, T* lse) {
  parallel(pool, c.rows * c.blocks(), [&](int64_t task) {
    Scratch<T> scratch(Block<T>::size(c), 3);
    const Block<T> b(c, task / c.blocks(), task % c.blocks(), scratch);
    for (int64_t t = 0; t < b.count; ++t) {
      T* to = copied + b.at(t) * words;
      std::fill_n(to, words, T(0));
      lse[b.at(t)] = kNothing<T>;
      if (b.reach(t) == 0) continue;
      const int64_t begin = b.begin(t), n = b.reach(t);
      const T all = lse[b.at(t)] = b.log_sum_exp(b.s + t * b.across + begin, n, b.e + begin);
      exponentials(b.e + begin, b.s + t * b.across + begin, n, all);
      const int32_t* answer = b.answers();
      for (int64_t i = begin; i < b.end(t); ++i) to[answer[i]] += b.e[i];
    }
  });
}

}  // namespace

#define BMOJO_OPERANDS                                                                       \
  In<type> q, In<type> k, In<type> turned, In<type> bias, In<ffi::S32> place,                \
      In<ffi::S32> reach, In<ffi::S32> targets, In<ffi::S32> answers, In<ffi::S32> hashes, \
      In<ffi::S32> own

template <ffi::DataType type>
Call<ffi::NativeType<type>> read_call(BMOJO_OPERANDS) {
  const auto size = q.dimensions();
  return {size[0], size[1], k.dimensions()[1], turned.dimensions()[2], size[2],
          static_cast<int64_t>(bias.element_count()), q.typed_data(), k.typed_data(),
          turned.typed_data(), bias.typed_data(), place.typed_data(), reach.typed_data(),
          targets.typed_data(), answers.typed_data(), hashes.typed_data(), own.typed_data()};
}

#define BMOJO_NAMES q, k, turned, bias, place, reach, targets, answers, hashes, own

template <ffi::DataType type>
ffi::Error Share(ffi::ThreadPool pool, BMOJO_OPERANDS, Out<type> right, Out<type> lse) {
  forward(pool, read_call<type>(BMOJO_NAMES), right->typed_data(), lse->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error ShareBack(ffi::ThreadPool pool, BMOJO_OPERANDS, In<type> right, In<type> lse,
                     In<type> d_right, In<type> d_lse, Out<type> dq, Out<type> dk,
                     Out<type> d_bias) {
  backward(pool, read_call<type>(BMOJO_NAMES), right.typed_data(), lse.typed_data(),
           d_right.typed_data(), d_lse.typed_data(), dk->dimensions()[0], dq->typed_data(),
           dk->typed_data(), d_bias->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error Copied(ffi::ThreadPool pool, BMOJO_OPERANDS, Out<type> copied, Out<type> lse) {
  distribution(pool, read_call<type>(BMOJO_NAMES), copied->dimensions()[2], copied->typed_data(),
               lse->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType type>
auto operands() {
  return takes<6, ffi::S32>(takes<4, type>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()));
}

template <ffi::DataType type>
auto two() { return gives<2, type>(operands<type>()); }

template <ffi::DataType type>
auto back() { return gives<3, type>(takes<4, type>(operands<type>())); }

BMOJO_HANDLER(readout_float32, Share<ffi::F32>, two<ffi::F32>());
BMOJO_HANDLER(readout_float64, Share<ffi::F64>, two<ffi::F64>());
BMOJO_HANDLER(readout_back_float32, ShareBack<ffi::F32>, back<ffi::F32>());
BMOJO_HANDLER(readout_back_float64, ShareBack<ffi::F64>, back<ffi::F64>());
BMOJO_HANDLER(readout_copied_float32, Copied<ffi::F32>, two<ffi::F32>());
BMOJO_HANDLER(readout_copied_float64, Copied<ffi::F64>, two<ffi::F64>());

}  // namespace bmojo
