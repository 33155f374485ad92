// The kernels as plain C functions on arrays in memory, with threads of our own: what PyTorch calls. The caller has
// checked all sizes.

#include <condition_variable>
#include <deque>
#include <thread>
#include <vector>

#include "orthogonal.h"
#include "rule.h"

using namespace celo;

namespace {

// Threads that are kept. They are never joined: at the end of the process they are waiting for work.
class OwnPool : public Pool {
 public:
  static OwnPool& with(int64_t threads) {
    static OwnPool& pool = *new OwnPool;
    std::lock_guard<std::mutex> lock(pool.mutex);
    pool.wanted = std::max<int64_t>(1, threads);
    while (pool.running < pool.wanted - 1) {  // the caller is one itself
      std::thread([] { pool.serve(); }).detach();
      pool.running++;
    }
    return pool;
  }
  int64_t threads() const override { return wanted; }
  void schedule(std::function<void()> work) override {
    {
      std::lock_guard<std::mutex> lock(mutex);
      waiting.push_back(std::move(work));
    }
    there_is_work.notify_one();
  }

 private:
  [[noreturn]] void serve() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex);
      there_is_work.wait(lock, [&] { return !waiting.empty(); });
      const std::function<void()> work = std::move(waiting.front());
      waiting.pop_front();
      lock.unlock();
      work();
    }
  }
  std::mutex mutex;
  std::condition_variable there_is_work;
  std::deque<std::function<void()>> waiting;
  int64_t wanted = 1, running = 0;
};

// One step of `count` tensors of one shape. Of each pointer the arrays of the tensors follow one another; statistics
// with three decays are [3, count, ...]. They are updated in place. All tensors have one network, or each its own.
template <typename Rule>
void take_steps(int64_t threads, const int64_t* dims, int64_t num_dims, bool row_along, int64_t count,
                bool own_networks, const float* theta, const float* grad, const float* param, float* momenta,
                float* second_moment, float* row, float* col, float* update) {
  const Shape shape = Shape::of(dims, num_dims, row_along);
  const int64_t size = shape.size(), rows = shape.row(), cols = shape.col();
  const auto at = [=](float* first, int64_t k, int64_t n) { return first + k * count * n; };
  static thread_local std::vector<float> unused;  // tensors without factors have no columns
  if (!shape.factored && (int64_t)unused.size() < 3 * count) unused.resize(3 * count);
  float* const columns = shape.factored ? col : unused.data();
  float* const m[3] = {at(momenta, 0, size), at(momenta, 1, size), at(momenta, 2, size)};
  float* const r[3] = {at(row, 0, rows), at(row, 1, rows), at(row, 2, rows)};
  float* const c[3] = {at(columns, 0, cols), at(columns, 1, cols), at(columns, 2, cols)};
  const Tensor first{theta, grad, param, {m[0], m[1], m[2]}, second_moment, {r[0], r[1], r[2]}, {c[0], c[1], c[2]},
                     update, {m[0], m[1], m[2]}, second_moment, {r[0], r[1], r[2]}, {c[0], c[1], c[2]}, nullptr};
  rule_steps<Rule>(OwnPool::with(threads), {{shape, count, own_networks ? 1 : count, first}});
}

}  // namespace

extern "C" {

#define CELO_DEFINE_STEPS(symbol, Rule)                                                                            \
  void symbol(int64_t threads, const int64_t* dims, int64_t num_dims, bool row_along, int64_t count,              \
              bool own_networks, const float* theta, const float* grad, const float* param, float* momenta,       \
              float* second_moment, float* row, float* col, float* update) {                                      \
    take_steps<Rule>(threads, dims, num_dims, row_along, count, own_networks, theta, grad, param, momenta,        \
                     second_moment, row, col, update);                                                            \
  }

CELO_DEFINE_STEPS(celo_rule_steps, CeloRule)
CELO_DEFINE_STEPS(celo2_rule_steps, Celo2Rule)

// Polar factors of `count` matrices, in place, and what makes each as long as its matrix was.
void celo_orthogonalize_matrices(int64_t threads, int64_t count, float* const* matrices, const int64_t* rows,
                                 const int64_t* columns, float* lengths, bool muon) {
  std::vector<Job> jobs;
  for (int64_t i = 0; i < count; i++) jobs.push_back({matrices[i], matrices[i], lengths + i, rows[i], columns[i]});
  orthogonalize_all(OwnPool::with(threads), std::move(jobs), muon);
}
}
