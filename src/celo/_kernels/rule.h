// Learned update rules for tensors of any shapes: see rule.cc.

#pragma once

#include <cstdint>
#include <vector>

#include "parallel.h"

namespace celo {

constexpr int kInputs = 30, kMomenta = 3, kFactored = 3;

// What is different between the rules: CELO and CELO2 of _definitions.py, and tests compare them with those.
struct CeloRule {
  static constexpr int kHidden = 4, kOutputs = 2;  // direction and magnitude
  static constexpr double kSecondMomentDecay = 0.999;
  static constexpr float kSecondMomentFloor = 1e-6f, kInputFloor = 1e-5f;
  static constexpr bool kVectorsHaveFactors = true;  // whether tensors without factors are fed stand-ins for them
};
struct Celo2Rule {
  static constexpr int kHidden = 8, kOutputs = 1;  // a direction alone
  static constexpr double kSecondMomentDecay = 0.95;
  static constexpr float kSecondMomentFloor = 1e-8f, kInputFloor = 1e-9f;
  static constexpr bool kVectorsHaveFactors = false;
};

// The weights of a rule as they are handed over.
template <typename Rule>
struct Network {
  static constexpr int kHidden = Rule::kHidden, kOutputs = Rule::kOutputs;
  float w0[kInputs][kHidden], b0[kHidden], w1[kHidden][kHidden], b1[kHidden], w2[kHidden][kOutputs], b2[kOutputs];
  float min_rms;  // the least size of the tensor that a step is taken for, where the rule says a length
  static constexpr int kWeights =
      kInputs * kHidden + kHidden + kHidden * kHidden + kHidden + kHidden * kOutputs + kOutputs + 1;
};
static_assert(sizeof(Network<CeloRule>) == Network<CeloRule>::kWeights * sizeof(float));
static_assert(sizeof(Network<Celo2Rule>) == Network<Celo2Rule>::kWeights * sizeof(float));

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
  float* rms;  // where to put the parameters' root mean square, or null
};

// Tensors of one shape, the arrays of each following on the last one's.
struct Batch {
  Shape shape;
  int64_t count, sharing;  // tensors; how many in a row have one network
  Tensor first;
  Tensor at(int64_t i) const {
    Tensor t = first;
    const int64_t size = shape.size(), row = i * shape.row(), col = i * shape.col();
    t.grad += i * size, t.param += i * size, t.second += i * size, t.new_second += i * size, t.update += i * size;
    for (int k = 0; k < kMomenta; k++) t.momentum[k] += i * size, t.new_momentum[k] += i * size;
    for (int k = 0; k < kFactored; k++)
      t.row[k] += row, t.new_row[k] += row, t.col[k] += col, t.new_col[k] += col;
    if (t.rms != nullptr) t.rms += i;
    return t;
  }
};

// One step by a rule, CeloRule or Celo2Rule, of all tensors; none is without elements.
template <typename Rule>
void rule_steps(Pool& pool, const std::vector<Batch>& batches);

}  // namespace celo
