// Work in parallel on threads that somebody lends: XLA, or a pool of our own.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace celo {

struct Pool {
  virtual int64_t threads() const = 0;  // at least 1, the caller's among them
  virtual void schedule(std::function<void()> work) = 0;
};

// Runs body(chunk) for all chunks on the pool's threads and on this one; returns when all are done. Threads that
// come late find nothing left, so that waiting never depends on a busy pool.
template <typename Body>
void in_parallel(Pool& pool, int64_t chunks, Body body) {
  if (chunks == 1) return body(0);
  struct Shared {
    std::atomic<int64_t> next{0}, left;
    std::mutex mutex;
    std::condition_variable done;
  };
  auto shared = std::make_shared<Shared>();
  shared->left = chunks;
  auto work = [shared, chunks, &body] {
    for (int64_t chunk; (chunk = shared->next++) < chunks;) {
      body(chunk);  // `body` is alive: its caller waits for every chunk that was taken
      if (--shared->left == 0) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->done.notify_all();
      }
    }
  };
  const int64_t threads = std::min(chunks, pool.threads());
  for (int64_t i = 1; i < threads; i++) pool.schedule(work);
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->left == 0; });
}

struct Range {
  int64_t begin, end;
};
inline Range part(int64_t total, int64_t chunks, int64_t chunk) {
  return {total * chunk / chunks, total * (chunk + 1) / chunks};
}

}  // namespace celo
