// The kernels as XLA calls them. What is handed over is trusted in nothing: a state of another model, or a damaged
// file, would be read and written past its end.

#include <string>

#include "orthogonal.h"
#include "rule.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace celo;

namespace {

using In = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

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

ffi::Error wrong_size(const char* name, int64_t found, int64_t expected) {
  return ffi::Error::InvalidArgument(std::string(name) + " has " + std::to_string(found) + " elements, expected " +
                                     std::to_string(expected) + ": the state is that of other parameters");
}

template <typename Rule>
ffi::Error rule(ffi::ThreadPool lent, ffi::Span<const int64_t> dims, bool row_along, In theta, In grad, In param,
                In m0, In m1, In m2, In second, In r0, In r1, In r2, In c0, In c1, In c2, Out update, Out new_m0,
                Out new_m1, Out new_m2, Out new_second, Out new_r0, Out new_r1, Out new_r2, Out new_c0, Out new_c1,
                Out new_c2) {
  if (dims.size() != 5 && dims.size() != 1) return ffi::Error::InvalidArgument("dims must be five sizes, or one");
  constexpr int64_t kWeights = Network<Rule>::kWeights;
  const Shape shape = Shape::of(dims.begin(), dims.size(), row_along);
  const int64_t size = shape.size(), count = theta.element_count() / kWeights;
  if ((int64_t)theta.element_count() != count * kWeights)
    return wrong_size("theta", theta.element_count(), kWeights);
  const In* statistics[kStatistics] = {&m0, &m1, &m2, &second, &r0, &r1, &r2, &c0, &c1, &c2};
  Out* results[kStatistics] = {&new_m0, &new_m1, &new_m2, &new_second, &new_r0,
                               &new_r1, &new_r2, &new_c0, &new_c1,     &new_c2};
  const int64_t whole = count * size;
  if ((int64_t)grad.element_count() != whole) return wrong_size("the gradient", grad.element_count(), whole);
  if ((int64_t)param.element_count() != whole) return wrong_size("the parameter", param.element_count(), whole);
  if ((int64_t)update->element_count() != whole) return wrong_size("the update", update->element_count(), whole);
  int64_t sizes[kStatistics];
  for (int i = 0; i < kStatistics; i++) {
    sizes[i] = i <= kMomenta ? size : i <= kMomenta + kFactored ? shape.row() : shape.col();
    for (const int64_t found : {(int64_t)statistics[i]->element_count(), (int64_t)(*results[i])->element_count()})
      if (found != count * sizes[i]) return wrong_size(kNames[i], found, count * sizes[i]);
  }
  if (whole == 0) return ffi::Error::Success();

  XlaPool pool(lent);
  rule_steps<Rule>(pool, shape, count, [&](int64_t i) {
    const auto in = [&](int k) { return statistics[k]->typed_data() + i * sizes[k]; };
    const auto out = [&](int k) { return (*results[k])->typed_data() + i * sizes[k]; };
    return Tensor{theta.typed_data() + i * kWeights,
                  grad.typed_data() + i * size,
                  param.typed_data() + i * size,
                  {in(0), in(1), in(2)},
                  in(3),
                  {in(4), in(5), in(6)},
                  {in(7), in(8), in(9)},
                  update->typed_data() + i * size,
                  {out(0), out(1), out(2)},
                  out(3),
                  {out(4), out(5), out(6)},
                  {out(7), out(8), out(9)}};
  });
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

#define CELO_DEFINE_RULE(symbol, Rule)                                                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                      \
      symbol, rule<Rule>,                                                             \
      ffi::Ffi::Bind()                                                                \
          .Ctx<ffi::ThreadPool>()                                                     \
          .Attr<ffi::Span<const int64_t>>("dims")                                     \
          .Attr<bool>("row_along")                                                    \
          .Arg<In>().Arg<In>().Arg<In>().Arg<In>().Arg<In>().Arg<In>().Arg<In>()      \
          .Arg<In>().Arg<In>().Arg<In>().Arg<In>().Arg<In>().Arg<In>()                \
          .Ret<In>().Ret<In>().Ret<In>().Ret<In>().Ret<In>().Ret<In>()                \
          .Ret<In>().Ret<In>().Ret<In>().Ret<In>().Ret<In>())

CELO_DEFINE_RULE(celo_rule, CeloRule);
CELO_DEFINE_RULE(celo2_rule, Celo2Rule);

XLA_FFI_DEFINE_HANDLER_SYMBOL(celo_orthogonalize, orthogonalize,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<bool>("muon")
                                  .RemainingArgs()
                                  .RemainingRets());
