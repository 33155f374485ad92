// Polar factors of many matrices in one call: the directions of their steps, with all lengths made equal.
//
// The mathematics is that of orthogonal.py beside this file: Newton-Schulz iterations on the Gram matrix of a
// matrix's shorter side. What is different is the order. Each symmetric product is computed in one triangle and
// mirrored; small matrices are taken whole by one thread each, large ones by all threads together.
//
// Matrices are worked on in *panels* of as many columns as a vector has lanes (16 by AVX-512), each contiguous [depth, 16]
// and padded with zeros: with both factors in panels a product is a sum of outer products of 16 by 16, which stay in
// registers.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>

#include "orthogonal.h"

namespace celo {

namespace {

// Odd quintics a x + b x^3 + c x^5, one after another, and what the Gram matrix is divided by before: its trace, or a
// closer bound on its largest eigenvalue. A test compares them with POLAR and MUON in _definitions.py.
struct Iteration {
  int stages;
  const float (*polynomials)[3];
  bool by_trace;
};
constexpr float kPolar[][3] = {
    {8.298703f, -24.430498f, 18.090304f},
    {3.915221f, -2.92113f, 0.559223f},
    {3.174604f, -2.380433f, 0.497826f},
    {2.189463f, -1.567221f, 0.407887f},
};
constexpr float kMuon[][3] = {
    {3.4445f, -4.7750f, 2.0315f}, {3.4445f, -4.7750f, 2.0315f}, {3.4445f, -4.7750f, 2.0315f},
    {3.4445f, -4.7750f, 2.0315f}, {3.4445f, -4.7750f, 2.0315f},
};
constexpr Iteration kIterations[] = {{4, kPolar, false}, {5, kMuon, true}};
constexpr float kSmallest = 1e-30f, kLargest = 1e37f;  // matrices beyond these stay as they are

// ---------------------------------------------------------------------------------------------- tiles and panels

struct Tile {
  V row[kTile];
};

// c += a^T b over two panels of that depth.
inline void multiply_add(const float* a, const float* b, int64_t depth, Tile& c) {
  Tile sum = c;
  for (int64_t d = 0; d < depth; d++) {
    const V right = load(b + d * kTile);
#pragma GCC unroll 16
    for (int i = 0; i < kTile; i++) sum.row[i] += a[d * kTile + i] * right;
  }
  c = sum;
}

inline V load_part(const float* p, int64_t n) { return n >= kLanes ? load(p) : load(p, (int)n); }
inline void store_part(float* p, V x, int64_t n) { n >= kLanes ? store(p, x) : store(p, x, (int)n); }

inline void transpose(Tile& t) {
#if defined(__GNUC__) && !defined(__clang__)
  const VI lane = lanes();
#pragma GCC unroll 4
  for (int half = kTile / 2; half > 0; half /= 2) {  // blocks off the diagonal change places
    const VI right = (lane & half) != 0;
    const VI upper = right ? lane + kTile - half : lane, lower = right ? lane + kTile : lane + half;
#pragma GCC unroll 16
    for (int i = 0; i < kTile; i++) {
      if (i & half) continue;
      const V a = t.row[i], b = t.row[i + half];
      t.row[i] = __builtin_shuffle(a, b, upper), t.row[i + half] = __builtin_shuffle(a, b, lower);
    }
  }
#else
  alignas(64) float from[kTile][kTile];
  for (int i = 0; i < kTile; i++) store(from[i], t.row[i]);
  for (int i = 0; i < kTile; i++)
    for (int j = 0; j < kTile; j++) t.row[i][j] = from[j][i];
#endif
}

struct Matrix {  // [rows, columns], row by row
  const float* x;
  int64_t rows, columns;
  float scale;  // what its entries are multiplied by as they are read

  // out[d][i] = x[row + d][column + i] for d < depth, zero past the last column.
  void take_columns(int64_t column, int64_t row, int64_t depth, float* out) const {
    for (int64_t d = 0; d < depth; d++)
      store(out + d * kTile, scale * load_part(x + (row + d) * columns + column, columns - column));
  }
  // out[d][i] = x[row + i][column + d] for d < depth, zero past the last row.
  void take_rows(int64_t row, int64_t column, int64_t depth, float* out) const {
    for (int64_t d = 0; d < depth; d += kTile) {
      Tile tile{};
      for (int64_t i = 0; i < std::min<int64_t>(kTile, rows - row); i++)
        tile.row[i] = scale * load_part(x + (row + i) * columns + column + d, depth - d);
      transpose(tile);
      for (int64_t i = 0; i < std::min<int64_t>(kTile, depth - d); i++) store(out + (d + i) * kTile, tile.row[i]);
    }
  }
};

// A symmetric matrix of k rows, in panels. All that meet here are polynomials of one another: they commute, and
// their products are symmetric too.
struct Symmetric {
  int64_t k;
  float* values;  // [panels, k, kTile]
  static int64_t size(int64_t k) { return panels(k) * panels(k) * kTile * kTile; }
  int64_t tiles() const { return panels(k) * (panels(k) + 1) / 2; }  // of one triangle
  const float* panel(int64_t p) const { return values + p * panels(k) * kTile * kTile; }
  float* at(int64_t row_tile, int64_t panel) const {
    return values + (panel * panels(k) + row_tile) * kTile * kTile;
  }
  void put(int64_t i, int64_t j, Tile& tile) const {  // at (i, j), i <= j, and at (j, i)
    for (int r = 0; r < kTile; r++) store(at(i, j) + r * kTile, tile.row[r]);
    if (i == j) return;
    transpose(tile);
    for (int r = 0; r < kTile; r++) store(at(j, i) + r * kTile, tile.row[r]);
  }
  double squares() const {
    double sum = 0;
    for (int64_t n = 0; n < size(k); n += kTile * kTile) {
      V part{};
      for (int r = 0; r < kTile; r++) {
        const V x = load(values + n + r * kTile);
        part += x * x;
      }
      sum += total(part);
    }
    return sum;
  }
};

// body(i, j) for the tiles i <= j of a triangle, from the `begin`-th to before the `end`-th.
template <typename Body>
inline void over_triangle(Range range, Body body) {
  int64_t i = 0, j = 0;
  for (int64_t n = 0; n < range.end; n++) {
    if (n >= range.begin) body(i, j);
    if (++i > j) i = 0, j++;
  }
}

void multiply(Pool& pool, int64_t chunks, const Symmetric& a, const Symmetric& b, const Symmetric& c) {
  chunks = std::min(chunks, c.tiles());
  in_parallel(pool, chunks, [&](int64_t chunk) {
    over_triangle(part(c.tiles(), chunks, chunk), [&](int64_t i, int64_t j) {
      Tile tile{};
      multiply_add(a.panel(i), b.panel(j), c.k, tile);
      c.put(i, j, tile);
    });
  });
}

// ---------------------------------------------------------------------------------------------------- one matrix

constexpr int64_t kDepth = 128;  // of the panels that the Gram matrix is summed from: they stay in the cache

float largest_entry(const Job& job, Range range) {
  V largest{};
  by_lanes(range.end - range.begin, [&](int64_t j, auto get, auto, auto) {
    const V x = get(job.x + range.begin + j);
    largest = larger(larger(x, -x), largest);
  });
  float result = 0;
  for (int i = 0; i < kLanes; i++) result = std::max(result, largest[i]);
  return result;
}

// sum[i][j] += the part of x x^T or x^T x, whichever is smaller, that comes from this range of the longer side.
void add_gram(const Matrix& x, bool tall, Range range, const Symmetric& sum, float* packed) {
  for (int64_t from = range.begin; from < range.end; from += kDepth) {
    const int64_t depth = std::min(kDepth, range.end - from);
    for (int64_t p = 0; p < panels(sum.k); p++)
      if (tall)
        x.take_columns(p * kTile, from, depth, packed + p * kDepth * kTile);
      else
        x.take_rows(p * kTile, from, depth, packed + p * kDepth * kTile);
    over_triangle({0, sum.tiles()}, [&](int64_t i, int64_t j) {
      Tile tile;
      for (int r = 0; r < kTile; r++) tile.row[r] = load(sum.at(i, j) + r * kTile);
      multiply_add(packed + i * kDepth * kTile, packed + j * kDepth * kTile, depth, tile);
      for (int r = 0; r < kTile; r++) store(sum.at(i, j) + r * kTile, tile.row[r]);
    });
  }
}

// out = x q or q x for a range of tiles of the longer side; returns the sum of squares of what it wrote.
double apply(const Job& job, const Matrix& x, bool tall, const Symmetric& q, Range range, float* packed) {
  double squares = 0;
  for (int64_t n = range.begin; n < range.end; n++) {
    const int64_t from = n * kTile;
    if (tall)
      x.take_rows(from, 0, q.k, packed);
    else
      x.take_columns(from, 0, q.k, packed);
    for (int64_t p = 0; p < panels(q.k); p++) {
      Tile tile{};
      if (tall)
        multiply_add(packed, q.panel(p), q.k, tile);
      else
        multiply_add(q.panel(p), packed, q.k, tile);
      const int64_t row = tall ? from : p * kTile, column = tall ? p * kTile : from;
      V sum{};
      for (int64_t i = 0; i < std::min<int64_t>(kTile, job.rows - row); i++) {
        store_part(job.out + (row + i) * job.columns + column, tile.row[i], job.columns - column);
        sum += tile.row[i] * tile.row[i];  // lanes past the end are zero
      }
      squares += total(sum);
    }
  }
  return squares;
}

void orthogonalize(Pool& pool, int64_t chunks, const Job& job, const Iteration& iteration) {
  const int64_t k = job.shorter(), size = job.rows * job.columns;
  const bool tall = job.rows >= job.columns;

  std::vector<float> largest(chunks);
  in_parallel(pool, chunks,
              [&](int64_t chunk) { largest[chunk] = largest_entry(job, part(size, chunks, chunk)); });
  const float most = *std::max_element(largest.begin(), largest.end());
  if (!(most >= kSmallest && most <= kLargest)) {
    std::copy(job.x, job.x + size, job.out);
    *job.length = 1;
    return;
  }
  const Matrix x{job.x, job.rows, job.columns, 1 / most};

  static thread_local std::vector<float> kept;  // for small matrices an allocation costs as much as the work
  std::vector<float> own;
  const int64_t square = Symmetric::size(k), pack = panels(k) * kTile * kDepth;
  const int64_t needed = 5 * square + (chunks - 1) * square + chunks * pack + 16;  // for the alignment
  std::vector<float>& buffer = chunks == 1 ? kept : own;  // others write to it where chunks > 1
  if ((int64_t)buffer.size() < needed) buffer.resize(needed);
  float* free = (float*)(((uintptr_t)buffer.data() + 63) / 64 * 64);
  const auto take = [&free](int64_t n) { return std::exchange(free, free + n); };
  Symmetric gram{k, take(square)}, power{k, take(square)}, p{k, take(square)}, q{k, take(square)},
      spare{k, take(square)};
  float* others = take((chunks - 1) * square);  // partial Gram matrices
  float* packed = take(chunks * pack);

  std::fill(gram.values, gram.values + square, 0.0f);
  std::fill(others, others + (chunks - 1) * square, 0.0f);
  in_parallel(pool, chunks, [&](int64_t chunk) {
    const Symmetric sum{k, chunk == 0 ? gram.values : others + (chunk - 1) * square};
    add_gram(x, tall, part(job.longer(), chunks, chunk), sum, packed + chunk * pack);
  });
  over_triangle({0, gram.tiles()}, [&](int64_t i, int64_t j) {
    Tile tile;
    for (int r = 0; r < kTile; r++) {
      tile.row[r] = load(gram.at(i, j) + r * kTile);
      for (int64_t other = 0; other < chunks - 1; other++)
        tile.row[r] += load(others + other * square + (gram.at(i, j) - gram.values) + r * kTile);
    }
    gram.put(i, j, tile);
  });
  double squares = 0;  // of the scaled entries: the trace
  for (int64_t i = 0; i < k; i++) squares += gram.at(i / kTile, i / kTile)[(i % kTile) * kTile + i % kTile];

  const int64_t together = k >= 128 ? chunks : 1;  // smaller products are not worth the waiting
  float unit = 1;                                  // what q is still to be multiplied by
  for (int stage = 0; stage < iteration.stages; stage++) {
    const auto [a, b, c] = iteration.polynomials[stage];
    multiply(pool, together, gram, gram, power);
    float one = 1;  // what the Gram matrix is to be multiplied by
    if (stage == 0) {
      one = 1 / (iteration.by_trace ? (float)squares : std::sqrt((float)std::sqrt(power.squares())));
      unit = std::sqrt(one);
    }
    const V a1 = all(a), b1 = all(b * one), c1 = all(c * one * one);
    for (int64_t n = 0; n < square; n += kTile) {
      store(p.values + n, b1 * load(gram.values + n) + c1 * load(power.values + n));
      if (stage == 0) store(gram.values + n, one * load(gram.values + n));
    }
    for (int64_t i = 0; i < k; i++) p.at(i / kTile, i / kTile)[(i % kTile) * kTile + i % kTile] += a1[0];
    if (stage == 0) {
      std::copy(p.values, p.values + square, q.values);
    } else {
      multiply(pool, together, q, p, spare);
      std::swap(q.values, spare.values);
    }
    if (stage == iteration.stages - 1) break;
    multiply(pool, together, gram, p, spare);
    multiply(pool, together, spare, p, gram);
  }
  for (int64_t n = 0; n < square; n += kTile) store(q.values + n, unit * load(q.values + n));

  std::vector<double> parts(chunks);
  in_parallel(pool, chunks, [&](int64_t chunk) {
    const Range range = part(panels(job.longer()), chunks, chunk);
    parts[chunk] = apply(job, x, tall, q, range, packed + chunk * pack);
  });
  double written = 0;
  for (double one : parts) written += one;
  *job.length = (float)(std::sqrt(squares / written) * most);
}

}  // namespace

// --------------------------------------------------------------------------------------------------- many matrices

void orthogonalize_all(Pool& pool, std::vector<Job> jobs, bool muon) {
  const Iteration& iteration = kIterations[muon];
  double work = 0;
  for (const Job& job : jobs) work += job.work();
  constexpr double kWorthAThread = 1e6;  // multiplications: some twenty microseconds
  const int64_t threads = std::clamp<int64_t>((int64_t)(work / kWorthAThread), 1, pool.threads());
  // A matrix that would keep one thread busy after the others have finished is taken by all of them.
  const auto large = [&](const Job& job) { return threads > 1 && job.work() > work / (2 * threads); };
  std::stable_partition(jobs.begin(), jobs.end(), large);
  const int64_t first = std::count_if(jobs.begin(), jobs.end(), large), rest = jobs.size() - first;
  for (int64_t i = 0; i < first; i++) orthogonalize(pool, threads, jobs[i], iteration);
  const int64_t groups = threads == 1 ? std::min<int64_t>(rest, 1) : std::min(rest, 8 * threads);
  if (rest > 0)
    in_parallel(pool, groups, [&](int64_t group) {
      const Range range = part(rest, groups, group);
      for (int64_t i = range.begin; i < range.end; i++) orthogonalize(pool, 1, jobs[first + i], iteration);
    });
}

}  // namespace celo
