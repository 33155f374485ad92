// The kernels as XLA calls them. What is handed over is trusted in nothing: a state of another model, or a damaged
// file, would be read and written past its end.

#include <algorithm>
#include <string>
#include <vector>

#include "orthogonal.h"
#include "rule.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace celo;

namespace {

struct XlaPool : Pool {
  ffi::ThreadPool& lent;
  explicit XlaPool(ffi::ThreadPool& lent) : lent(lent) {}
  int64_t threads() const override { return std::max<int64_t>(1, lent.num_threads()); }
  void schedule(std::function<void()> work) override { lent.Schedule(std::move(work)); }
};

// Statistics in the order of arguments and results: momenta, second moment, row, col.
constexpr int kStatistics = kMomenta + 1 + 2 * kFactored;
constexpr const char* kNames[kStatistics] = {"momenta[0]", "momenta[1]", "momenta[2]", "second_moment", "row[0]",
                                             "row[1]",     "row[2]",     "col[0]",     "col[1]",        "col[2]"};

ffi::Error wrong_size(size_t tensor, const char* name, int64_t found, int64_t expected) {
  return ffi::Error::InvalidArgument("of tensor " + std::to_string(tensor) + ", " + name + " has " +
                                     std::to_string(found) + " elements, expected " + std::to_string(expected) +
                                     ": the state is that of other parameters");
}

// Arguments: of each tensor the network's weights, gradient, parameters, statistics. Results: of each the update, the
// statistics and, where the rule says a length, the parameters' root mean square. `layouts` has six numbers for each:
// the sizes of a Shape, and 0 of one without factors, 1, or 2 if the row moment is the one averaged along lines. A
// tensor may be many, whose arrays follow one another: as many as its networks, or a multiple.
template <typename Rule>
ffi::Error rule(ffi::ThreadPool lent, ffi::Span<const int64_t> layouts, ffi::RemainingArgs args,
                ffi::RemainingRets rets) {
  constexpr size_t kLayout = 6, kArguments = 3 + kStatistics, kResults = 1 + kStatistics + (Rule::kOutputs - 1);
  constexpr int64_t kWeights = Network<Rule>::kWeights;
  const size_t tensors = layouts.size() / kLayout;
  if (layouts.size() % kLayout || args.size() != tensors * kArguments || rets.size() != tensors * kResults)
    return ffi::Error::InvalidArgument("arguments, results and layouts are of different numbers of tensors");
  std::vector<Batch> batches;
  batches.reserve(tensors);
  for (size_t n = 0; n < tensors; n++) {
    const int64_t* d = layouts.begin() + n * kLayout;
    if (std::any_of(d, d + kLayout, [](int64_t x) { return x < 0; }))
      return ffi::Error::InvalidArgument("a layout has negative sizes");
    const Shape shape{d[0], d[1], d[2], d[3], d[4], d[5] == 2, d[5] != 0};
    const float* in[kArguments];
    float* out[kResults];
    int64_t given[kArguments], returned[kResults];
    for (size_t k = 0; k < kArguments; k++) {
      const auto x = args.get<ffi::Buffer<ffi::F32>>(n * kArguments + k);
      if (!x.has_value()) return ffi::Error::InvalidArgument("arguments must be float32");
      in[k] = x->typed_data(), given[k] = x->element_count();
    }
    for (size_t k = 0; k < kResults; k++) {
      auto x = rets.get<ffi::Buffer<ffi::F32>>(n * kResults + k);
      if (!x.has_value()) return ffi::Error::InvalidArgument("results must be float32");
      out[k] = (*x)->typed_data(), returned[k] = (*x)->element_count();
    }
    const int64_t size = shape.size(), networks = given[0] / kWeights;
    if (given[0] != networks * kWeights) return wrong_size(n, "theta", given[0], kWeights);
    const int64_t count = size == 0 ? 0 : given[2] / size;
    if (size == 0 ? given[2] != 0 : given[2] != count * size || count % std::max<int64_t>(networks, 1) || !networks)
      return wrong_size(n, "the parameter", given[2], networks * size);
    if (given[1] != given[2]) return wrong_size(n, "the gradient", given[1], given[2]);
    if (returned[0] != given[2]) return wrong_size(n, "the update", returned[0], given[2]);
    for (int i = 0; i < kStatistics; i++) {
      const int64_t expected = count * (i <= kMomenta ? size : i <= kMomenta + kFactored ? shape.row() : shape.col());
      for (const int64_t found : {given[3 + i], returned[1 + i]})
        if (found != expected) return wrong_size(n, kNames[i], found, expected);
    }
    constexpr bool kWithSize = kResults > 1 + kStatistics;
    if (kWithSize && returned[kResults - 1] != count) return wrong_size(n, "the size", returned[kResults - 1], count);
    if (count == 0) continue;
    const float* const* s = in + 3;
    float* const* r = out + 1;
    batches.push_back({shape, count, count / networks,
                       Tensor{in[0], in[1], in[2], {s[0], s[1], s[2]}, s[3], {s[4], s[5], s[6]}, {s[7], s[8], s[9]},
                              out[0], {r[0], r[1], r[2]}, r[3], {r[4], r[5], r[6]}, {r[7], r[8], r[9]},
                              kWithSize ? out[kResults - 1] : nullptr}});
  }
  XlaPool pool(lent);
  rule_steps<Rule>(pool, batches);
  return ffi::Error::Success();
}

// Arguments x_i [..., rows, columns]; results: all factors of those shapes, then all lengths [...].
ffi::Error orthogonalize(ffi::ThreadPool lent, bool muon, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  std::vector<Job> jobs;
  if (rets.size() != 2 * args.size())
    return ffi::Error::InvalidArgument("there must be a factor and a length for each matrix");
  for (size_t n = 0; n < args.size(); n++) {
    const auto x = args.get<ffi::Buffer<ffi::F32>>(n);
    auto out = rets.get<ffi::Buffer<ffi::F32>>(n), length = rets.get<ffi::Buffer<ffi::F32>>(args.size() + n);
    if (!x.has_value() || !out.has_value() || !length.has_value())
      return ffi::Error::InvalidArgument("matrices, factors and lengths must be float32");
    const auto shape = x->dimensions();
    if (shape.size() < 2) return ffi::Error::InvalidArgument("a matrix has at least two axes");
    const int64_t rows = shape[shape.size() - 2], columns = shape[shape.size() - 1], size = rows * columns;
    if (size == 0) continue;
    const int64_t count = x->element_count() / size;
    if ((int64_t)(*out)->element_count() != count * size || (int64_t)(*length)->element_count() != count)
      return ffi::Error::InvalidArgument("a factor has the shape of its matrix, and there is one length for each");
    for (int64_t i = 0; i < count; i++)
      jobs.push_back({x->typed_data() + i * size, (*out)->typed_data() + i * size, (*length)->typed_data() + i, rows,
                      columns});
  }
  XlaPool pool(lent);
  orthogonalize_all(pool, std::move(jobs), muon);
  return ffi::Error::Success();
}

}  // namespace

#define CELO_DEFINE_RULE(symbol, Rule)                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                 \
      symbol, rule<Rule>,                                        \
      ffi::Ffi::Bind()                                           \
          .Ctx<ffi::ThreadPool>()                                \
          .Attr<ffi::Span<const int64_t>>("layouts")             \
          .RemainingArgs()                                       \
          .RemainingRets())

CELO_DEFINE_RULE(celo_rule, CeloRule);
CELO_DEFINE_RULE(celo2_rule, Celo2Rule);

XLA_FFI_DEFINE_HANDLER_SYMBOL(celo_orthogonalize, orthogonalize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<bool>("muon")
                                  .RemainingArgs()
                                  .RemainingRets());
