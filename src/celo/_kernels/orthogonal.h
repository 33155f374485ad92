// Polar factors of many matrices: see orthogonal.cc.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.h"
#include "parallel.h"

namespace celo {

constexpr int kTile = kLanes;  // rows and columns of the blocks that matrices are worked on in
inline int64_t panels(int64_t columns) { return (columns + kTile - 1) / kTile; }

struct Job {
  const float* x;
  float *out, *length;  // out [rows, columns]; *length * out is as long as x
  int64_t rows, columns;
  int64_t shorter() const { return std::min(rows, columns); }
  int64_t longer() const { return std::max(rows, columns); }
  double work() const {  // multiplications: two products with the longer side, thirteen without, half of each
    const double k = panels(shorter()) * kTile;
    return 1.5 * k * k * longer() + 6.5 * k * k * k;
  }
};

// Every job's factor and length, by our polynomials or by Muon's.
void orthogonalize_all(Pool& pool, std::vector<Job> jobs, bool muon = false);

}  // namespace celo
