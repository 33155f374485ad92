// A learned update rule, Celo's or Celo2's, for one tensor, or for a batch of equal tensors that each have their own
// weights.
//
// The mathematics is that of rule_network.py beside this file, which says what each input is. What is different
// is the order: XLA reads and writes every statistic several times, here a tensor is passed over three times:
//
//   observe   new momenta and second moments; sums for the normalisers that need nothing else
//   normalise the sums that need the factored moments of the whole tensor
//   step      30 inputs -> 4 -> 4 -> (direction, magnitude) -> update, or 8 units for 4 and a bare direction
//
// A tensor with two or more axes is seen as [A, a, M, b, I]: a and b are its two factored axes, in the order
// they lie in memory, and A, M, I the others in between. A *line* is the contiguous stretch of b and I. The
// moment averaged over a ("across") has a value for each place on a line; the one averaged over b ("along")
// has one for each line, or, where I > 1, a short pattern that repeats along it.
//
// The arithmetic is float32; sums over many elements are kept in double.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "rule.h"

#include "lanes.h"

namespace celo {

namespace {

// ------------------------------------------------------------------------------------------------ the network

constexpr double kMomentumDecays[kMomenta] = {0.9, 0.99, 0.999};
constexpr double kFactoredDecays[kFactored] = {0.9, 0.99, 0.999};

inline V average(double decay, V old, V now) { return (float)decay * old + (float)(1 - decay) * now; }

// Rows of the first layer: names and order are those of INPUTS in _definitions.py, and a test compares them. An
// input with a value for each decay has three rows, one after another.
enum Input {
  kGrad = 0,
  kClippedGrad = 1,
  kParam = 2,
  kMomentum = 3,
  kSecondMoment = 6,
  kMomentumOverRms = 7,
  kInverseRms = 10,
  kFactoredGrad = 11,
  kGradOverRms = 14,
  kRow = 15,
  kCol = 18,
  kInverseRow = 21,
  kInverseCol = 24,
  kFactoredMomentum = 27,
};

using Sums = std::array<double, kInputs>;  // of the squares of each input

// The network with the inputs' normalisation in its first layer, and what a step is multiplied by.
template <typename Rule>
struct BoundNetwork : Network<Rule> {
  static constexpr int kHidden = Rule::kHidden;
  float scale;
  BoundNetwork(const float* weights, const Sums& squares, int64_t size) {
    std::memcpy(static_cast<Network<Rule>*>(this), weights, sizeof(Network<Rule>));
    float factor[kInputs];
    for (int k = 0; k < kInputs; k++) factor[k] = (float)(squares[k] * (1.0 / size));
    by_lanes(kInputs, [&](int64_t k, auto get, auto put, auto) {
      put(factor + k, inverse_sqrt(get(factor + k) + Rule::kInputFloor));
    });
    for (int k = 0; k < kInputs; k++)
      for (int j = 0; j < kHidden; j++) this->w0[k][j] *= factor[k];
    scale = -1e-3f * std::max(std::sqrt((float)(squares[kParam] / size) + 1e-9f), this->min_rms);
  }
  V update(const V (&first)[kHidden]) const {
    V hidden[kHidden], output[Rule::kOutputs];
    for (int o = 0; o < Rule::kOutputs; o++) output[o] = all(this->b2[o]);
    for (int j = 0; j < kHidden; j++) hidden[j] = larger(first[j], V{});
    for (int i = 0; i < kHidden; i++) {
      V unit = all(this->b1[i]);
      for (int j = 0; j < kHidden; j++) unit += this->w1[j][i] * hidden[j];
      unit = larger(unit, V{});
      for (int o = 0; o < Rule::kOutputs; o++) output[o] += this->w2[i][o] * unit;
    }
    if constexpr (Rule::kOutputs == 1)
      return -output[0];
    else
      return scale * output[0] * exponential(1e-3f * output[1]);
  }
};

// Sums of squares in vectors, moved into doubles before rounding can matter.
template <int kCount>
struct Accumulator {
  V sum[kCount] = {};
  double done[kCount] = {};
  int64_t since = 0;
  void flush() {
    for (int k = 0; k < kCount; k++) done[k] += total(sum[k]), sum[k] = V{};
    since = 0;
  }
  void seen(int64_t elements) {
    if ((since += elements) >= 1 << 14) flush();
  }
};

inline V clean(V g) {  // NaN counts as zero
  g = g == g ? g : V{};
  return smaller(larger(g, all(-1000.0f)), all(1000.0f));
}

// ------------------------------------------------------------------------- what all tensors have in common

enum PlainSum { sGrad, sClipped, sParam, sMomentum, sSecond = sMomentum + 3, sMomentumOverRms,
                sInverseRms = sMomentumOverRms + 3, sGradOverRms, kPlainSums };

// One vector of elements in the first pass: statistics, and the sums that need nothing else.
template <typename Rule, typename Load, typename Store, typename Mask>
inline V observe(const Tensor& t, int64_t at, Load get, Store put, Mask only, V (&sum)[kPlainSums]) {
  const V g = clean(get(t.grad + at)), p = get(t.param + at), square = g * g;
  const V v = average(Rule::kSecondMomentDecay, get(t.second + at), square);
  put(t.new_second + at, v);
  const V inverse_rms = only(inverse_sqrt(v + Rule::kSecondMomentFloor));
  const V clipped = smaller(larger(g, all(-0.1f)), all(0.1f));
  for (int k = 0; k < kMomenta; k++) {
    const V m = average(kMomentumDecays[k], get(t.momentum[k] + at), g);
    put(t.new_momentum[k] + at, m);
    const V over = m * inverse_rms;
    sum[sMomentum + k] += m * m;
    sum[sMomentumOverRms + k] += over * over;
  }
  const V over = g * inverse_rms;
  sum[sGrad] += square;
  sum[sClipped] += clipped * clipped;
  sum[sParam] += p * p;
  sum[sSecond] += v * v;
  sum[sInverseRms] += inverse_rms * inverse_rms;
  sum[sGradOverRms] += over * over;
  return square;
}

void take_plain(const Accumulator<kPlainSums>& from, Sums& to) {
  const auto& s = from.done;
  to[kGrad] += s[sGrad], to[kClippedGrad] += s[sClipped], to[kParam] += s[sParam], to[kSecondMoment] += s[sSecond];
  to[kInverseRms] += s[sInverseRms], to[kGradOverRms] += s[sGradOverRms];
  for (int k = 0; k < kMomenta; k++)
    to[kMomentum + k] += s[sMomentum + k], to[kMomentumOverRms + k] += s[sMomentumOverRms + k];
}

Sums sum_of(const std::vector<Sums>& parts) {  // in one order, whichever thread was first
  Sums sum{};
  for (const Sums& one : parts)
    for (int k = 0; k < kInputs; k++) sum[k] += one[k];
  return sum;
}

// The inputs that every tensor has, in the third pass; the factors of the second moment come from outside.
template <bool kWithFactoredMomentum, typename Rule, typename Load>
inline void first_layer(const BoundNetwork<Rule>& net, const Tensor& t, int64_t at, Load get,
                        const V (&grad_factor)[3], const V (&momentum_factor)[3], V (&unit)[Rule::kHidden]) {
  const V g = clean(get(t.grad + at)), p = get(t.param + at), v = get(t.new_second + at);
  const V inverse_rms = inverse_sqrt(v + Rule::kSecondMomentFloor);
  // A sum waits for itself at each multiply-add: with few units there are two for each, with many no room for that.
  constexpr bool kTwo = Rule::kHidden <= 4;
  V second[Rule::kHidden] = {};
  const auto take = [&](int k, V x) {
    for (int j = 0; j < Rule::kHidden; j++) unit[j] += net.w0[k][j] * x;
  };
  const auto take_too = [&](int k, V x) {
    for (int j = 0; j < Rule::kHidden; j++) (kTwo ? second : unit)[j] += net.w0[k][j] * x;
  };
  take(kGrad, g);
  take_too(kClippedGrad, smaller(larger(g, all(-0.1f)), all(0.1f)));
  take(kParam, p);
  take_too(kSecondMoment, v);
  take(kInverseRms, inverse_rms);
  take_too(kGradOverRms, g * inverse_rms);
  for (int k = 0; k < 3; k++) {
    const V m = get(t.new_momentum[k] + at);
    take(kMomentum + k, m);
    take_too(kMomentumOverRms + k, m * inverse_rms);
    take(kFactoredGrad + k, g * grad_factor[k]);
    if (kWithFactoredMomentum) take_too(kFactoredMomentum + k, m * momentum_factor[k]);
  }
  if (kTwo)
    for (int j = 0; j < Rule::kHidden; j++) unit[j] += second[j];
}

using Runner = void (*)(Pool&, int64_t, const Tensor&, const Shape&);

// ---------------------------------------------------------------- tensors with fewer than two axes: no factors

template <typename Rule>
void run_vector(Pool& pool, int64_t chunks, const Tensor& t, const Shape& shape) {
  const int64_t size = shape.size();
  std::vector<Sums> parts(chunks);
  constexpr bool kAll = Rule::kVectorsHaveFactors;
  constexpr int kOwn = (kAll ? 4 : 1) * kFactored;  // factored gradient; factored momentum, row, inverse row
  in_parallel(pool, chunks, [&](int64_t chunk) {
    Accumulator<kPlainSums> plain;
    Accumulator<kOwn> own;
    const Range range = part(size, chunks, chunk);
    constexpr int64_t kBlock = 1 << 12;
    for (int64_t begin = range.begin; begin < range.end; begin += kBlock) {
      const int64_t n = std::min(kBlock, range.end - begin);
      by_lanes(n, [&](int64_t j, auto get, auto put, auto only) {
        const int64_t at = begin + j;
        const V square = observe<Rule>(t, at, get, put, only, plain.sum), g = clean(get(t.grad + at));
        for (int k = 0; k < kFactored; k++) {
          const V row = average(kFactoredDecays[k], get(t.row[k] + at), square + 1e-30f);
          put(t.new_row[k] + at, row);
          const V fg = g * inverse_sqrt(row + 1e-9f);
          own.sum[k] += fg * fg;
          if constexpr (kAll) {
            const V fm = get(t.new_momentum[k] + at) * inverse_sqrt(row);
            const V inverse = only(inverse_sqrt(row + 1e-8f)), there = only(row), fm_there = only(fm);
            own.sum[3 + k] += fm_there * fm_there;
            own.sum[6 + k] += there * there;
            own.sum[9 + k] += inverse * inverse;
          }
        }
      });
      plain.seen(n), own.seen(n);
    }
    plain.flush(), own.flush();
    Sums& squares = parts[chunk];
    take_plain(plain, squares);
    for (int k = 0; k < kFactored; k++) {
      squares[kFactoredGrad + k] += own.done[k];
      if constexpr (kAll) {
        squares[kFactoredMomentum + k] += own.done[3 + k];
        squares[kRow + k] += own.done[6 + k], squares[kCol + k] += own.done[6 + k];
        squares[kInverseRow + k] += own.done[9 + k], squares[kInverseCol + k] += own.done[9 + k];
      }
    }
  });
  const BoundNetwork<Rule> net(t.theta, sum_of(parts), size);
  in_parallel(pool, chunks, [&](int64_t chunk) {
    const Range range = part(size, chunks, chunk);
    by_lanes(range.end - range.begin, [&](int64_t j, auto get, auto put, auto) {
      const int64_t at = range.begin + j;
      V unit[Rule::kHidden], grad_factor[3], momentum_factor[3];
      for (int i = 0; i < Rule::kHidden; i++) unit[i] = all(net.b0[i]);
      for (int k = 0; k < kFactored; k++) {
        const V row = get(t.new_row[k] + at);
        grad_factor[k] = inverse_sqrt(row + 1e-9f);
        if constexpr (kAll) {
          const V inverse = inverse_sqrt(row + 1e-8f);
          momentum_factor[k] = inverse_sqrt(row);
          for (int i = 0; i < Rule::kHidden; i++) {
            unit[i] += (net.w0[kRow + k][i] + net.w0[kCol + k][i]) * row;
            unit[i] += (net.w0[kInverseRow + k][i] + net.w0[kInverseCol + k][i]) * inverse;
          }
        }
      }
      first_layer<kAll>(net, t, at, get, grad_factor, momentum_factor, unit);
      put(t.update + at, net.update(unit));
    });
  });
  for (int k = 0; k < kFactored; k++) *t.new_col[k] = *t.col[k];  // a scalar that nobody reads
}

// ---------------------------------------------------------------------- tensors with two factored axes or more

// One factored moment (three decays) and what the network makes of it.
template <typename Rule>
struct Factor {
  static constexpr int kHidden = Rule::kHidden;
  int64_t size;
  const float* const* old;
  float* const* now;         // [3][size]
  float* inverse[3];         // [size] each: this factor's share of 1/sqrt(second moment)
  float* unit[kHidden];      // [size] each: this factor's part of the first layer

  void learn(const float* sum, double count, double (&squares)[kFactored], double (&inverses)[kFactored]) {
    for (int k = 0; k < kFactored; k++) {
      Accumulator<2> sums;
      by_lanes(size, [&](int64_t j, auto get, auto put, auto only) {
        const V mean = get(sum + j) * (float)(1.0 / count) + 1e-30f;
        const V x = average(kFactoredDecays[k], get(old[k] + j), mean);
        put(now[k] + j, x);
        const V there = only(x), inverse = only(inverse_sqrt(x + 1e-8f));
        sums.sum[0] += there * there, sums.sum[1] += inverse * inverse;
        sums.seen(kLanes);
      });
      sums.flush();
      squares[k] = sums.done[0] / size, inverses[k] = sums.done[1] / size;
    }
  }
  void invert() {  // the column's share
    for (int k = 0; k < kFactored; k++)
      by_lanes(size, [&](int64_t j, auto get, auto put, auto) {
        put(inverse[k] + j, inverse_sqrt(larger(get(now[k] + j), all(1e-9f))));
      });
  }
  // The row's share: each value over the mean of its group, `length` values that are `stride` apart.
  void invert_shares(int64_t groups, int64_t length, int64_t stride) {
    for (int k = 0; k < kFactored; k++)
      for (int64_t group = 0; group < groups; group++) {
        const float* x = now[k] + group * length * stride;
        float* y = inverse[k] + group * length * stride;
        const auto share = [](V value, V mean) {
          return inverse_sqrt(larger(value / (mean + 1e-9f), all(1e-9f)));
        };
        if (stride == 1) {
          Accumulator<1> mean;
          by_lanes(length, [&](int64_t i, auto get, auto, auto) { mean.sum[0] += get(x + i), mean.seen(kLanes); });
          mean.flush();
          const V by = all((float)(mean.done[0] / length));
          by_lanes(length, [&](int64_t i, auto get, auto put, auto) { put(y + i, share(get(x + i), by)); });
        } else {
          by_lanes(stride, [&](int64_t s, auto get, auto put, auto) {
            V by{};
            for (int64_t i = 0; i < length; i++) by += get(x + i * stride + s);
            by *= 1.0f / length;
            for (int64_t i = 0; i < length; i++) put(y + i * stride + s, share(get(x + i * stride + s), by));
          });
        }
      }
  }
  void enter(const BoundNetwork<Rule>& net, Input value, Input inverted, bool with_bias) {
    by_lanes(size, [&](int64_t j, auto get, auto put, auto) {
      V units[kHidden];
      for (int i = 0; i < kHidden; i++) units[i] = with_bias ? all(net.b0[i]) : V{};
      for (int k = 0; k < kFactored; k++) {
        const V x = get(now[k] + j), y = inverse_sqrt(x + 1e-8f);
        for (int i = 0; i < kHidden; i++) units[i] += net.w0[value + k][i] * x + net.w0[inverted + k][i] * y;
      }
      for (int i = 0; i < kHidden; i++) put(unit[i] + j, units[i]);
    });
  }
};

constexpr int64_t kSegment = 128 * kLanes;  // elements of a line that are worked on together

// The segments of a tensor in the order of memory, without divisions: lines are often shorter than those take.
struct Walk {
  const Shape& shape;
  int64_t line, from, count, middle, row, outer;
  Walk(const Shape& shape, int64_t number) : shape(shape) {
    const int64_t per_line = segments_per_line(shape);
    line = number / per_line, from = number % per_line * kSegment;
    middle = line % shape.middle, row = line / shape.middle % shape.a, outer = line / (shape.middle * shape.a);
    count = std::min(kSegment, shape.line() - from);
  }
  static int64_t segments_per_line(const Shape& shape) { return (shape.line() + kSegment - 1) / kSegment; }
  int64_t at() const { return line * shape.line() + from; }
  int64_t across() const { return (outer * shape.middle + middle) * shape.line() + from; }
  int64_t along() const { return line * shape.inner; }
  bool ends_line() const { return from + kSegment >= shape.line(); }
  void next() {
    if ((from += kSegment) >= shape.line()) {
      from = 0, line++;
      if (++middle == shape.middle) {
        middle = 0;
        if (++row == shape.a) row = 0, outer++;
      }
    }
    count = std::min(kSegment, shape.line() - from);
  }
};

// Sums over a line where I > 1: its element j belongs to the j % I-th of them. Vectors are added up first, apart by
// which of them each lane belongs to: that repeats after I vectors.
struct SumsAlong {
  const int64_t inner;
  float* const vectors;  // [I, lanes], and a vector more that is read and not used
  int64_t here = 0;
  SumsAlong(int64_t inner, float* vectors) : inner(inner), vectors(vectors) { clear(); }
  static int64_t scratch(int64_t inner) { return (inner + 1) * kLanes; }
  void clear() { std::fill(vectors, vectors + scratch(inner), 0.0f); }
  void begin(int64_t from) { here = from / kLanes % inner; }
  void add(V x) {
    float* sum = vectors + here * kLanes;
    store(sum, load(sum) + x);
    if (++here == inner) here = 0;
  }
  void finish(float* sums) {
    by_lanes(inner, [&](int64_t j, auto get, auto put, auto) {
      V sum = get(sums + j);
      for (int i = 0; i < kLanes; i++) sum += load(vectors + i * inner + j);
      put(sums + j, sum);
    });
    clear();
  }
};

// Values of the moment averaged along lines, a vector for any place on a line: one number, or a pattern that repeats.
struct Pattern {
  const float* const all_lines;
  const int64_t inner;
  const int64_t last;  // a vector that begins here or later runs past the pattern's end
  const float* values = nullptr;   // [I], of this line
  float ends[2 * kLanes];  // from `last` on, repeated
  Pattern(const float* all_lines, int64_t inner)
      : all_lines(all_lines), inner(inner), last(std::max<int64_t>(inner - kLanes, 0)) {}
  void enter(int64_t line) {
    values = all_lines + line * inner;
    for (int64_t j = 0, place = last; inner > 1 && j < 2 * kLanes; j++) {
      ends[j] = values[place];
      if (++place == inner) place = 0;
    }
  }
  V at(int64_t place) const {
    if (inner == 1) return all(*values);
    return load(place < last ? values + place : ends + (place - last));
  }
};

// Patterns of some moments, and the place on them.
template <size_t kCount>
struct Patterns {
  std::array<Pattern, kCount> each;
  int64_t inner, step, line = -1, place = 0;
  Patterns(float* const (&moments)[kCount], int64_t inner)
      : Patterns(moments, inner, std::make_index_sequence<kCount>()) {}
  template <size_t... i>
  Patterns(float* const (&moments)[kCount], int64_t inner, std::index_sequence<i...>)
      : each{Pattern(moments[i], inner)...}, inner(inner), step(kLanes % inner) {}
  void enter(const Walk& walk) {
    if (walk.line != line)
      for (Pattern& one : each) one.enter(walk.line);
    line = walk.line, place = walk.from % inner;
  }
  void next() {
    if ((place += step) >= inner) place -= inner;
  }
  V operator()(int k) const { return each[k].at(place); }
};

template <typename Rule>
void run_matrix(Pool& pool, int64_t chunks, const Tensor& t, const Shape& shape) {
  const int64_t size = shape.size(), segments = shape.lines() * Walk::segments_per_line(shape);
  const int64_t across_size = shape.across(), along_size = shape.along();
  chunks = std::min(chunks, segments);

  static thread_local std::vector<float> scratch;  // kept: for small tensors an allocation costs as much as work
  std::vector<float> own;
  const int64_t for_sums = shape.inner > 1 ? SumsAlong::scratch(shape.inner) : 0;
  const int64_t needed = (chunks + kFactored + Rule::kHidden) * (across_size + along_size) + chunks * for_sums;
  std::vector<float>& buffer = chunks == 1 ? scratch : own;  // body runs on other threads where chunks > 1
  if ((int64_t)buffer.size() < needed) buffer.resize(needed);
  float* free = buffer.data();
  const auto take = [&free](int64_t n) { return std::exchange(free, free + n); };
  float* across_sum = take(chunks * across_size);
  float* along_sum = take(chunks * along_size);
  float* sums_scratch = take(chunks * for_sums);
  std::fill(across_sum, across_sum + chunks * (across_size + along_size), 0.0f);

  Factor<Rule> across{across_size, shape.row_along ? t.col : t.row, shape.row_along ? t.new_col : t.new_row, {}, {}};
  Factor<Rule> along{along_size, shape.row_along ? t.row : t.col, shape.row_along ? t.new_row : t.new_col, {}, {}};
  for (Factor<Rule>* factor : {&across, &along}) {
    for (auto& p : factor->inverse) p = take(factor->size);
    for (auto& p : factor->unit) p = take(factor->size);
  }

  std::vector<Sums> parts(chunks);
  in_parallel(pool, chunks, [&](int64_t chunk) {
    Accumulator<kPlainSums> plain;
    const Range range = part(segments, chunks, chunk);
    Walk walk(shape, range.begin);
    const auto segment = [&](auto add) {
      const int64_t at = walk.at();
      float* across_here = across_sum + chunk * across_size + walk.across();
      by_lanes(walk.count, [&](int64_t j, auto get, auto put, auto only) {
        const V square = observe<Rule>(t, at + j, get, put, only, plain.sum);
        put(across_here + j, get(across_here + j) + square);
        add(square);
      });
      plain.seen(walk.count);
    };
    float* along_here = along_sum + chunk * along_size;
    if (shape.inner == 1) {
      for (int64_t n = range.begin; n < range.end; n++, walk.next()) {
        V sum{};
        segment([&](V square) { sum += square; });
        along_here[walk.along()] += total(sum);
      }
    } else {
      SumsAlong sums(shape.inner, sums_scratch + chunk * for_sums);
      for (int64_t n = range.begin; n < range.end; n++, walk.next()) {
        sums.begin(walk.from);
        segment([&](V square) { sums.add(square); });
        if (n + 1 == range.end || walk.ends_line()) sums.finish(along_here + walk.along());
      }
    }
    plain.flush();
    take_plain(plain, parts[chunk]);
  });
  for (int64_t chunk = 1; chunk < chunks; chunk++) {
    for (int64_t j = 0; j < across_size; j++) across_sum[j] += across_sum[chunk * across_size + j];
    for (int64_t j = 0; j < along_size; j++) along_sum[j] += along_sum[chunk * along_size + j];
  }

  double across_squares[3], across_inverses[3], along_squares[3], along_inverses[3];
  across.learn(across_sum, shape.a, across_squares, across_inverses);
  along.learn(along_sum, shape.b, along_squares, along_inverses);
  if (shape.row_along) {
    along.invert_shares(shape.outer, shape.a, shape.middle * shape.inner);
    across.invert();
  } else {
    across.invert_shares(shape.outer * shape.middle, shape.b, shape.inner);
    along.invert();
  }
  const Input across_value = shape.row_along ? kCol : kRow, along_value = shape.row_along ? kRow : kCol;
  const Input across_inverse = shape.row_along ? kInverseCol : kInverseRow;
  const Input along_inverse = shape.row_along ? kInverseRow : kInverseCol;
  for (int k = 0; k < kFactored; k++) {
    Sums& squares = parts[0];
    squares[across_value + k] = across_squares[k] * size, squares[across_inverse + k] = across_inverses[k] * size;
    squares[along_value + k] = along_squares[k] * size, squares[along_inverse + k] = along_inverses[k] * size;
  }

  in_parallel(pool, chunks, [&](int64_t chunk) {
    Accumulator<2 * kFactored> factored;
    const Range range = part(segments, chunks, chunk);
    Walk walk(shape, range.begin);
    Patterns<kFactored> inverse(along.inverse, shape.inner);
    for (int64_t n = range.begin; n < range.end; n++, walk.next()) {
      const int64_t at = walk.at(), over = walk.across();
      inverse.enter(walk);
      by_lanes(walk.count, [&](int64_t j, auto get, auto, auto) {
        const V g = clean(get(t.grad + at + j));
        for (int k = 0; k < kFactored; k++) {
          const V factor = get(across.inverse[k] + over + j) * inverse(k);
          const V fg = g * factor, fm = get(t.new_momentum[k] + at + j) * factor;
          factored.sum[k] += fg * fg, factored.sum[3 + k] += fm * fm;
        }
        inverse.next();
      });
      factored.seen(walk.count);
    }
    factored.flush();
    for (int k = 0; k < kFactored; k++) {
      parts[chunk][kFactoredGrad + k] += factored.done[k];
      parts[chunk][kFactoredMomentum + k] += factored.done[3 + k];
    }
  });

  const BoundNetwork<Rule> net(t.theta, sum_of(parts), size);
  across.enter(net, across_value, across_inverse, false);
  along.enter(net, along_value, along_inverse, true);
  in_parallel(pool, chunks, [&](int64_t chunk) {
    const Range range = part(segments, chunks, chunk);
    Walk walk(shape, range.begin);
    Patterns<kFactored> inverse(along.inverse, shape.inner);
    Patterns<Rule::kHidden> units(along.unit, shape.inner);
    for (int64_t n = range.begin; n < range.end; n++, walk.next()) {
      const int64_t at = walk.at(), over = walk.across();
      inverse.enter(walk), units.enter(walk);
      by_lanes(walk.count, [&](int64_t j, auto get, auto put, auto) {
        V unit[Rule::kHidden], factor[3];
        for (int i = 0; i < Rule::kHidden; i++) unit[i] = units(i) + get(across.unit[i] + over + j);
        for (int k = 0; k < kFactored; k++) factor[k] = get(across.inverse[k] + over + j) * inverse(k);
        first_layer<true>(net, t, at + j, get, factor, factor, unit);
        put(t.update + at + j, net.update(unit));
        inverse.next(), units.next();
      });
    }
  });
}

}  // namespace

// ---------------------------------------------------------------------------------------------------- many tensors

template <typename Rule>
void rule_steps(Pool& pool, const Shape& shape, int64_t count, const std::function<Tensor(int64_t)>& tensor) {
  const Runner run = shape.factored ? run_matrix<Rule> : run_vector<Rule>;
  constexpr int64_t kWorthAThread = 1 << 17;  // elements
  const int64_t chunks = std::clamp<int64_t>(count * shape.size() / kWorthAThread, 1, pool.threads());
  if (count >= 2 * chunks) {  // tensors side by side, each by one thread
    in_parallel(pool, chunks, [&](int64_t chunk) {
      const Range range = part(count, chunks, chunk);
      for (int64_t i = range.begin; i < range.end; i++) run(pool, 1, tensor(i), shape);
    });
  } else {
    for (int64_t i = 0; i < count; i++) run(pool, chunks, tensor(i), shape);
  }
}

template void rule_steps<CeloRule>(Pool&, const Shape&, int64_t, const std::function<Tensor(int64_t)>&);
template void rule_steps<Celo2Rule>(Pool&, const Shape&, int64_t, const std::function<Tensor(int64_t)>&);

}  // namespace celo
