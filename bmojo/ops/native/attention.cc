// Attention to a sliding window and memory slots, or to the whole past; see attention.py.

#include "attention_block.h"
#include "handler.h"
#include "scratch.h"

namespace bmojo {
namespace {

constexpr int64_t kStretch = 512;  // tokens whose keys are packed at a time, at least a chunk

// Sizes and operands of a call. Arrays are as in attention.py, time before heads.
template <typename T>
struct Call {
  int64_t batch, length, heads, width;  // of q
  int64_t keys, groups, tail;           // of k and tail_k
  int64_t chunks, slots;                // of slot_k
  int64_t window;                       // 0: the whole past
  int64_t near, far;
  const T *q, *k, *v, *tail_k, *tail_v, *slot_k, *slot_v;
  const int32_t *distance, *segment_pos, *offset, *position;

  int64_t heads_of_group() const { return heads / groups; }
  int64_t q_row(int64_t b, int64_t t, int64_t h) const {
    return ((b * length + t) * heads + h) * width;
  }
  int64_t key_row(int64_t b, int64_t t, int64_t g) const {
    return ((b * keys + t) * groups + g) * width;
  }
  int64_t tail_row(int64_t b, int64_t t, int64_t g) const {  // t < 0
    return ((b * tail + tail + t) * groups + g) * width;
  }
  int64_t slot_row(int64_t b, int64_t chunk, int64_t m, int64_t g) const {
    return (((b * chunks + chunk) * slots + m) * groups + g) * width;
  }
  int64_t place(int64_t b, int64_t t) const { return window ? t : position[b * length + t]; }
  int64_t oldest(int64_t b, int64_t t) const {
    const int64_t old = segment_pos[b * length + t];
    return place(b, t) - (window ? std::min(old, window - 1) : old);
  }
};

// Where gradients go; zeros at the start.
template <typename T>
struct Gradients {
  T *q, *k, *v, *tail_k, *tail_v, *slot_k, *slot_v;
};

// What the backward pass knows from the forward one.
template <typename T>
struct Saved {
  const T *out, *lse, *d_out;
};

// The queries [begin, end) of one row and one group of heads.
template <typename T>
class Stretch {
 public:
  Stretch(const Call<T>& call, int64_t b, int64_t g, int64_t begin, int64_t end)
      : call_(call), b_(b), g_(g), begin_(begin), end_(end), width_(whole<T>(call.width)) {
    first_ = std::numeric_limits<int64_t>::max();
    int64_t last = std::numeric_limits<int64_t>::min();
    for (int64_t t = begin; t < end; ++t) {
      first_ = std::min(first_, call.oldest(b, t));
      last = std::max(last, call.place(b, t));
    }
    first_ = std::max(first_, -call.tail);
    count_ = std::max<int64_t>(0, std::min(last + 1, call.keys) - first_);
  }

  void forward(T* out, T* lse) {
    const int64_t each = Tiles<T>::count(count_) * kKeys * width_;
    const int64_t held = Tiles<T>::count(call_.slots) * kKeys * width_;
    const int64_t rows = kQueries * width_;
    Scratch<T> scratch(2 * (each + held) + 2 * rows + kQueries * (kKeys + 2), 16);
    Tiles<T> keys{width_, scratch.take(each), nullptr, nullptr, scratch.take(each)};
    Tiles<T> slots{width_, scratch.take(held), nullptr, nullptr, scratch.take(held)};
    block_.width = width_;
    block_.q = scratch.take(rows);
    block_.out = scratch.take(rows);
    block_.peak = scratch.take(kQueries);
    block_.total = scratch.take(kQueries);
    block_.scores = scratch.take(kQueries * kKeys);
    pack(keys);
    blocks(slots, [&](int64_t t, int64_t tokens, int64_t chunk) {
      std::fill_n(block_.out, block_.rows * width_, T(0));
      std::fill_n(block_.total, block_.rows, T(0));
      std::fill_n(block_.peak, block_.rows, T(-1e30));
      tiles(keys, slots, t, tokens, chunk, [&](const Tiles<T>& seen, int64_t tile, int c, int to) {
        look(block_, seen, tile, c, to);
      });
      for (int64_t r = 0; r < block_.rows; ++r) {
        const int64_t h = head(r, tokens), at = t + r % tokens;
        const bool blind = block_.total[r] == 0;  // a query that sees nothing gets zeros
        const T share = blind ? 0 : 1 / block_.total[r], *row = block_.out + r * width_;
        T* to = out + call_.q_row(b_, at, h);
        for (int64_t p = 0; p < call_.width; ++p) to[p] = row[p] * share;
        T* pair = lse + 2 * ((b_ * call_.heads + h) * call_.length + at);
        pair[0] = blind ? 0 : block_.peak[r];
        pair[1] = blind ? 0 : std::log2(block_.total[r]);
      }
    }, [](int64_t) {});
  }

  void backward(const Saved<T>& saved, const Gradients<T>& grads) {
    const int64_t each = Tiles<T>::count(count_) * kKeys * width_;
    const int64_t held = Tiles<T>::count(call_.slots) * kKeys * width_;
    const int64_t rows = kQueries * width_;
    Scratch<T> scratch(5 * (each + held) + 3 * rows + kQueries * (2 * kKeys + 3), 32);
    const auto take = [&](int64_t size) {
      return Tiles<T>{width_, scratch.take(size), scratch.take(size), scratch.take(size), nullptr,
                      scratch.take(size), scratch.take(size)};
    };
    Tiles<T> keys = take(each), slots = take(held);
    block_.width = width_;
    block_.q = scratch.take(rows);
    block_.d_out = scratch.take(rows);
    block_.dq = scratch.take(rows);
    block_.peak = scratch.take(kQueries);
    block_.log = scratch.take(kQueries);
    block_.delta = scratch.take(kQueries);
    block_.scores = scratch.take(kQueries * kKeys);
    block_.d_scores = scratch.take(kQueries * kKeys);
    pack(keys);
    std::fill_n(keys.dk, each, T(0));
    std::fill_n(keys.dv, each, T(0));
    blocks(slots, [&](int64_t t, int64_t tokens, int64_t chunk) {
      clear(block_.q, block_.rows * width_);
      for (int64_t r = 0; r < block_.rows; ++r) {
        const int64_t h = head(r, tokens), at = t + r % tokens, from = call_.q_row(b_, at, h);
        T* d_out = block_.d_out + r * width_;
        copy_row(saved.d_out + from, d_out);
        T product = 0;
        for (int64_t p = 0; p < call_.width; ++p) product += saved.out[from + p] * d_out[p];
        block_.delta[r] = product;
        const T* pair = saved.lse + 2 * ((b_ * call_.heads + h) * call_.length + at);
        block_.peak[r] = pair[0];
        block_.log[r] = pair[1];
        if (!std::isfinite(product) || !std::isfinite(pair[0] + pair[1])) {  // passes nothing back
          block_.delta[r] = 0;
          block_.peak[r] = 0;
          block_.log[r] = std::numeric_limits<T>::infinity();
        }
      }
      clear(block_.d_out, block_.rows * width_);
      std::fill_n(block_.dq, block_.rows * width_, T(0));
      tiles(keys, slots, t, tokens, chunk, [&](const Tiles<T>& seen, int64_t tile, int c, int to) {
        look_back(block_, seen, tile, c, to);
      });
      for (int64_t r = 0; r < block_.rows; ++r) {
        T* to = grads.q + call_.q_row(b_, t + r % tokens, head(r, tokens));
        for (int64_t p = 0; p < call_.width; ++p) to[p] = block_.dq[r * width_ + p] * scale();
      }
    }, [&](int64_t chunk) {
      for (int64_t m = 0; m < call_.slots; ++m) {
        const int64_t to = call_.slot_row(b_, chunk, m, g_);
        const T* dk = slots.dk + m * width_;
        std::copy_n(dk, call_.width, grads.slot_k + to);
        std::copy_n(slots.dv + m * width_, call_.width, grads.slot_v + to);
      }
    });
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t t = first_ + i;
      const int64_t to = t < 0 ? call_.tail_row(b_, t, g_) : call_.key_row(b_, t, g_);
      T *dk = (t < 0 ? grads.tail_k : grads.k) + to, *dv = (t < 0 ? grads.tail_v : grads.v) + to;
      for (int64_t p = 0; p < call_.width; ++p) {
        dk[p] += keys.dk[i * width_ + p];
        dv[p] += keys.dv[i * width_ + p];
      }
    }
  }

 private:
  T scale() const { return 1 / std::sqrt(static_cast<T>(call_.width)); }

  int64_t head(int64_t row, int64_t tokens) const {
    return g_ * call_.heads_of_group() + first_head_ + row / tokens;
  }

  void copy_row(const T* from, T* to) const {
    std::copy_n(from, call_.width, to);
    std::fill(to + call_.width, to + width_, T(0));
  }

  void pack(Tiles<T>& keys) {
    const auto row = [&](const T* tail, const T* own) {
      return [=, this](int64_t i) {
        const int64_t t = first_ + i;
        return t < 0 ? tail + call_.tail_row(b_, t, g_) : own + call_.key_row(b_, t, g_);
      };
    };
    pack(keys, count_, row(call_.tail_k, call_.k), row(call_.tail_v, call_.v));
  }

  // In the forward pass a key that is not finite, or whose value is not, is NaN throughout.
  template <typename Row>
  void pack(Tiles<T>& keys, int64_t count, const Row& k, const Row& v) {
    const bool good = Tiles<T>::pack(count, call_.width, width_, keys.k, keys.k_across, k);
    if (Tiles<T>::pack(count, call_.width, width_, keys.v, keys.v_across, v) && good) return;
    for (int64_t i = 0; i < count && keys.dk == nullptr; ++i) {
      T lost = 0;
      for (int64_t p = 0; p < call_.width; ++p) lost += (k(i)[p] - k(i)[p]) + (v(i)[p] - v(i)[p]);
      T* column = keys.k_across + i / kKeys * kKeys * width_ + i % kKeys;
      for (int64_t p = 0; p < width_; ++p) column[p * kKeys] += lost;
    }
  }

  void pack_slots(Tiles<T>& slots, int64_t chunk) {
    const auto row = [&](const T* from) {
      return [=, this](int64_t m) { return from + call_.slot_row(b_, chunk, m, g_); };
    };
    pack(slots, call_.slots, row(call_.slot_k), row(call_.slot_v));
    const int64_t size = Tiles<T>::count(call_.slots) * kKeys * width_;
    if (slots.dk != nullptr) std::fill_n(slots.dk, size, T(0));
    if (slots.dv != nullptr) std::fill_n(slots.dv, size, T(0));
  }

  // Calls visit(t, tokens, chunk) for blocks of at most kQueries rows within one chunk each, with
  // the queries in block_.q and the chunk's slots packed, and leave(chunk) behind the last one of a
  // chunk. Of a group with more heads than that, a block has one token and a part of the heads.
  template <typename Visit, typename Leave>
  void blocks(Tiles<T>& slots, const Visit& visit, const Leave& leave) {
    const int64_t all = call_.heads_of_group(), together = std::min<int64_t>(all, kQueries);
    const int64_t most = kQueries / together;
    const int64_t chunk_size = call_.slots ? call_.window : end_ - begin_;
    const int64_t ahead = call_.slots ? call_.offset[b_] : -begin_;
    for (int64_t t = begin_; t < end_;) {
      const int64_t chunk = (t + ahead) / chunk_size;
      const int64_t edge = std::min(end_, (chunk + 1) * chunk_size - ahead);
      if (call_.slots) pack_slots(slots, chunk);
      for (; t < edge; t += most) {
        const int64_t tokens = std::min(most, edge - t);
        for (first_head_ = 0; first_head_ < all; first_head_ += together) {
          block_.rows = tokens * std::min(together, all - first_head_);
          for (int64_t r = 0; r < block_.rows; ++r) {
            T* q = block_.q + r * width_;
            copy_row(call_.q + call_.q_row(b_, t + r % tokens, head(r, tokens)), q);
            for (int64_t p = 0; p < call_.width; ++p) q[p] *= scale();
          }
          visit(t, tokens, chunk);
        }
      }
      t = edge;
      if (call_.slots) leave(chunk);
    }
  }

  // Calls visit(tiles, tile, from, to) for the columns of each tile that a block may see, with
  // their scores in block_.scores.
  template <typename Visit>
  void tiles(const Tiles<T>& keys, const Tiles<T>& slots, int64_t t, int64_t tokens, int64_t chunk,
             const Visit& visit) {
    const T hidden = -std::numeric_limits<T>::infinity();
    int64_t low[kQueries], high[kQueries];  // of each query, the first key seen and the one behind
    for (int64_t i = 0; i < tokens; ++i) {
      low[i] = std::max<int64_t>(0, call_.oldest(b_, t + i) - first_);
      high[i] = std::min(count_, call_.place(b_, t + i) + 1 - first_);
    }
    const int64_t begin = *std::min_element(low, low + tokens);
    const int64_t end = *std::max_element(high, high + tokens);
    const int64_t all_from = *std::max_element(low, low + tokens);
    const int64_t all_to = *std::min_element(high, high + tokens);
    for (int64_t tile = begin / kKeys; begin < end && tile * kKeys < end; ++tile) {
      const int64_t base = tile * kKeys;
      const int from = static_cast<int>(std::max<int64_t>(0, begin - base)) / kLanes<T> * kLanes<T>;
      const int to = static_cast<int>(whole<T>(std::min<int64_t>(kKeys, end - base)));
      const bool masked = base + from < all_from || base + to > all_to;
      score(block_, keys, tile, from, to, masked, tokens, [&](int64_t i, T* scores) {
        const int64_t a = std::clamp<int64_t>(low[i] - base, from, to);
        const int64_t z = std::clamp<int64_t>(high[i] - base, a, to);
        std::fill(scores + from, scores + a, hidden);
        std::fill(scores + z, scores + to, hidden);
      });
      visit(keys, tile, from, to);
    }
    if (!call_.slots) return;
    const int64_t since = t + call_.offset[b_] - chunk * call_.window;
    const int32_t* distance = call_.distance + (b_ * call_.chunks + chunk) * call_.slots;
    for (int64_t base = 0; base < call_.slots; base += kKeys) {
      const int64_t here = std::min<int64_t>(kKeys, call_.slots - base);
      const int to = static_cast<int>(whole<T>(here));
      score(block_, slots, base / kKeys, 0, to, true, tokens, [&](int64_t i, T* scores) {
        const int64_t most = std::min<int64_t>(call_.segment_pos[b_ * call_.length + t + i], call_.far - 1);
        for (int64_t m = 0; m < here; ++m) {
          const int64_t reach = since + i + distance[base + m];
          if (reach < call_.near || reach > most) scores[m] = hidden;
        }
        std::fill(scores + here, scores + to, hidden);
      });
      visit(slots, base / kKeys, 0, to);
    }
  }

  const Call<T>& call_;
  const int64_t b_, g_, begin_, end_, width_;
  int64_t first_, count_;  // keys [first_, first_ + count_) are packed
  int64_t first_head_ = 0;  // of the block, in its group
  Block<T> block_;
};

// Stretches of a call: they begin at edges of the grid, and none is shorter than a window.
template <typename T>
int64_t stretch_size(const Call<T>& call) {
  if (!call.window) return kStretch;
  return (std::max(kStretch, call.window) + call.window - 1) / call.window * call.window;
}

template <typename T>
void run_stretch(const Call<T>& call, int64_t size, int64_t index, int64_t b, int64_t g,
                 const auto& run) {
  const int64_t ahead = call.slots ? call.offset[b] : 0;
  const int64_t begin = std::max<int64_t>(0, index * size - ahead);
  const int64_t end = std::min(call.length, (index + 1) * size - ahead);
  if (begin >= end) return;
  Stretch<T> stretch(call, b, g, begin, end);
  run(stretch);
}

template <typename T>
void forward(ffi::ThreadPool& pool, const Call<T>& call, T* out, T* lse) {
  const int64_t size = stretch_size(call), pairs = call.batch * call.groups;
  const int64_t count = (call.length + (call.slots ? call.window - 1 : 0) + size - 1) / size;
  parallel(pool, count * pairs, [&](int64_t i) {
    const int64_t pair = i % pairs, index = count - 1 - i / pairs;  // the longest ones first
    run_stretch(call, size, index, pair / call.groups, pair % call.groups,
                [&](Stretch<T>& stretch) { stretch.forward(out, lse); });
  });
}

// Two stretches that touch write to the same keys, every second one does not: first the even
// ones, then the odd ones. With the whole past there is one stretch.
template <typename T>
void backward(ffi::ThreadPool& pool, const Call<T>& call, const Saved<T>& saved,
              const Gradients<T>& grads) {
  const int64_t size = call.window ? stretch_size(call) : call.length;
  const int64_t pairs = call.batch * call.groups;
  const int64_t count = (call.length + (call.slots ? call.window - 1 : 0) + size - 1) / size;
  for (int64_t parity = 0; parity < std::min<int64_t>(2, count); ++parity) {
    const int64_t mine = (count + 1 - parity) / 2;
    parallel(pool, mine * pairs, [&](int64_t i) {
      const int64_t pair = i % pairs, index = 2 * (i / pairs) + parity;
      run_stretch(call, size, index, pair / call.groups, pair % call.groups,
                  [&](Stretch<T>& stretch) { stretch.backward(saved, grads); });
    });
  }
}

}  // namespace

// The operands of every kernel, as in attention.py.
#define BMOJO_OPERANDS                                                                       \
  In<type> q, In<type> k, In<type> v, In<type> tail_k, In<type> tail_v, In<type> slot_k,     \
      In<type> slot_v, In<ffi::S32> distance, In<ffi::S32> segment_pos, In<ffi::S32> offset, \
      In<ffi::S32> position

template <ffi::DataType type>
Call<ffi::NativeType<type>> read_call(int64_t window, int64_t near, int64_t far, BMOJO_OPERANDS) {
  const auto size = q.dimensions(), k_size = k.dimensions(), slot_size = slot_k.dimensions();
  return {size[0], size[1], size[2], size[3], k_size[1], k_size[2], tail_k.dimensions()[1],
          slot_size[1], slot_size[2], window, near, far, q.typed_data(), k.typed_data(),
          v.typed_data(), tail_k.typed_data(), tail_v.typed_data(), slot_k.typed_data(),
          slot_v.typed_data(), distance.typed_data(), segment_pos.typed_data(), offset.typed_data(),
          position.typed_data()};
}

template <ffi::DataType type>
ffi::Error Attend(ffi::ThreadPool pool, int64_t window, int64_t near, int64_t far, BMOJO_OPERANDS,
                  Out<type> out, Out<type> lse) {
  const auto call = read_call<type>(window, near, far, q, k, v, tail_k, tail_v, slot_k, slot_v,
                                    distance, segment_pos, offset, position);
  forward(pool, call, out->typed_data(), lse->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType type>
ffi::Error AttendBack(ffi::ThreadPool pool, int64_t window, int64_t near, int64_t far,
                      BMOJO_OPERANDS, In<type> out, In<type> lse, In<type> d_out, Out<type> dq,
                      Out<type> dk, Out<type> dv, Out<type> d_tail_k, Out<type> d_tail_v,
                      Out<type> d_slot_k, Out<type> d_slot_v) {
  using T = ffi::NativeType<type>;
  const auto call = read_call<type>(window, near, far, q, k, v, tail_k, tail_v, slot_k, slot_v,
                                    distance, segment_pos, offset, position);
  for (auto* zero : {&dk, &dv, &d_tail_k, &d_tail_v, &d_slot_k, &d_slot_v})
    std::fill_n((*zero)->typed_data(), (*zero)->element_count(), T(0));
  backward<T>(pool, call, {out.typed_data(), lse.typed_data(), d_out.typed_data()},
              {dq->typed_data(), dk->typed_data(), dv->typed_data(), d_tail_k->typed_data(),
               d_tail_v->typed_data(), d_slot_k->typed_data(), d_slot_v->typed_data()});
  return ffi::Error::Success();
}

template <ffi::DataType type>
auto operands() {
  return takes<4, ffi::S32>(takes<7, type>(
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("window").Attr<int64_t>("near")
          .Attr<int64_t>("far")));
}

template <ffi::DataType type>
auto attend_binding() { return gives<2, type>(operands<type>()); }

template <ffi::DataType type>
auto attend_back_binding() { return gives<7, type>(takes<3, type>(operands<type>())); }

BMOJO_HANDLER(attend_float32, Attend<ffi::F32>, attend_binding<ffi::F32>());
BMOJO_HANDLER(attend_float64, Attend<ffi::F64>, attend_binding<ffi::F64>());
BMOJO_HANDLER(attend_back_float32, AttendBack<ffi::F32>, attend_back_binding<ffi::F32>());
BMOJO_HANDLER(attend_back_float64, AttendBack<ffi::F64>, attend_back_binding<ffi::F64>());

}  // namespace bmojo
