// Run by test_sanitizers.py, compiled with the sanitizers: the plain calls on random shapes, on memory of exactly the
// right sizes. A read or write past an end, or undefined behaviour, ends the process with a report.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" {
void celo_rule_steps(int64_t threads, const int64_t* dims, int64_t num_dims, bool row_along, int64_t count,
                     bool own_networks, const float* theta, const float* grad, const float* param, float* momenta,
                     float* second_moment, float* row, float* col, float* update);
void celo_orthogonalize_matrices(int64_t threads, int64_t count, float* const* matrices, const int64_t* rows,
                                 const int64_t* columns, float* lengths, bool muon);
}

namespace {

std::mt19937 generator;

int64_t between(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(generator);
}

using Floats = std::vector<float>;

Floats normal(int64_t size, float scale) {
  std::normal_distribution<float> draw(0, scale);
  Floats x(size);
  for (float& number : x) number = draw(generator);
  return x;
}

void check(const Floats& x) {
  for (const float number : x)
    if (!std::isfinite(number)) {
      std::puts("a result is not finite");
      std::exit(1);
    }
}

// One tensor without factors, or [outer, a, middle, b, inner] of sizes below and above a vector's.
void rule(int64_t weights) {
  const int64_t most = between(0, 9) == 0 ? 300 : 20, threads = between(1, 4), count = between(1, 5);
  const bool factored = between(0, 3) != 0, row_along = between(0, 1);
  const std::vector<int64_t> dims =
      factored ? std::vector<int64_t>{between(1, 3), between(1, most), between(1, 3), between(1, most), between(1, 5)}
               : std::vector<int64_t>{between(1, most * most)};
  int64_t size = 1;
  for (const int64_t n : dims) size *= n;
  const int64_t across = factored ? size / dims[1] : size, along = factored ? size / dims[3] : 1;
  const int64_t row = factored && row_along ? along : across, col = factored && row_along ? across : along;
  const bool own_networks = between(0, 1);
  const Floats theta = normal(weights * (own_networks ? count : 1), 0.1f), param = normal(count * size, 1);
  Floats grad = normal(count * size, std::pow(10.0f, (float)between(-8, 8)));
  grad[between(0, count * size - 1)] = between(0, 1) ? NAN : INFINITY;
  Floats momenta(3 * count * size), second(count * size), rows(3 * count * row), cols(3 * count * col);
  Floats update(count * size);
  for (int step = 0; step < 2; step++)
    celo_rule_steps(threads, dims.data(), (int64_t)dims.size(), row_along, count, own_networks, theta.data(),
                    grad.data(), param.data(), momenta.data(), second.data(), rows.data(), cols.data(),
                    update.data());
  for (const Floats* x : {&momenta, &second, &rows, &update}) check(*x);
}

void matrices() {
  const int64_t count = between(1, 6), threads = between(1, 4);
  std::vector<Floats> held;
  std::vector<float*> pointers;
  std::vector<int64_t> rows, columns;
  for (int64_t i = 0; i < count; i++) {
    const int64_t most = between(0, 5) == 0 ? 150 : 40;
    rows.push_back(between(1, most));
    columns.push_back(between(1, most));
    held.push_back(normal(rows[i] * columns[i], between(0, 4) ? std::pow(10.0f, (float)between(-20, 20)) : 0));
  }
  for (Floats& x : held) pointers.push_back(x.data());
  Floats lengths(count);
  celo_orthogonalize_matrices(threads, count, pointers.data(), rows.data(), columns.data(), lengths.data(),
                              between(0, 1));
  for (const Floats& x : held) check(x);
  check(lengths);
}

}  // namespace

int main(int, char** arguments) {
  const int64_t weights = std::atoll(arguments[1]), rounds = std::atoll(arguments[2]);
  for (int64_t seed = 0; seed < rounds; seed++) {
    generator.seed(seed);
    rule(weights);
    matrices();
  }
  std::printf("%lld rounds\n", (long long)rounds);
}
