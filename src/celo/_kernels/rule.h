// Celo's update rule for tensors of one shape: see rule.cc.

#pragma once

#include <cstdint>
#include <functional>

#include "parallel.h"

namespace celo {

constexpr int kInputs = 30, kMomenta = 3, kFactored = 3;
constexpr int kWeights = kInputs * 4 + 4 + 16 + 4 + 8 + 2 + 1;  // w0 b0 w1 b1 w2 b2 and the least size

struct Shape {
  int64_t outer, a, middle, b, inner;  // [A, a, M, b, I]; a single line of b where there are no factors
  bool row_along;                      // the row moment is the one averaged along lines (over b)
  bool factored;                       // whether there are factors
  int64_t line() const { return b * inner; }
  int64_t lines() const { return outer * a * middle; }
  int64_t size() const { return lines() * line(); }
  int64_t across() const { return outer * middle * line(); }
  int64_t along() const { return lines() * inner; }
  int64_t row() const { return !factored ? size() : row_along ? along() : across(); }
  int64_t col() const { return !factored ? 1 : row_along ? across() : along(); }

  // From five sizes and `row_along`, or from one size of a tensor without factors.
  static Shape of(const int64_t* dims, int64_t count, bool row_along) {
    if (count == 5) return {dims[0], dims[1], dims[2], dims[3], dims[4], row_along, true};
    return {1, 1, 1, dims[0], 1, false, false};
  }
};

struct Tensor {  // what belongs to one; new statistics may lie where the old ones do
  const float *theta, *grad, *param, *momentum[kMomenta], *second, *row[kFactored], *col[kFactored];
  float *update, *new_momentum[kMomenta], *new_second, *new_row[kFactored], *new_col[kFactored];
};

// One step of each of `count` tensors with at least one element.
void rule_steps(Pool& pool, const Shape& shape, int64_t count, const std::function<Tensor(int64_t)>& tensor);

}  // namespace celo
