"""What all optimizers in PyTorch share: losses, options, bad numbers, state, and PyTorch's own machinery."""

import copy
import functools
import io
import pickle
import subprocess
import sys
import warnings

import golden_data
import jax
import numpy as np
import pytest
import side_by_side
import torch
import torch.distributed.checkpoint as dcp
from marks import slow_but
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import celo
from celo import weights
from celo._definitions import POLICIES
from celo._errors import CeloError
from celo.torch import Celo, Celo2, Celo2Base, CeloAdam, CeloRule, VeLO

pytestmark = pytest.mark.filterwarnings("ignore:lr is 60:celo.OutOfRangeWarning")  # so that steps are seen

CELO2_THETA = golden_data.to_celo2_theta(
    golden_data.below(golden_data.load(golden_data.CELO2), "theta/celo2__noisy")
)
VELO_THETA = golden_data.to_velo_theta(
    golden_data.below(golden_data.load(golden_data.VELO), "theta/velo_s__noisy")
)
THETA = {group: dict(arrays) for group, arrays in weights.load("celo").theta.items()}
HORIZON = 60
SHAPES = {"w": (5, 6), "v": (5, 6), "b": (7,), "gain": ()}


def leaf(*shape, seed=0, dtype=torch.float32):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype).requires_grad_()


def leaves(dtype=torch.float32):
    return [leaf(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES.values())]


OPTIMIZERS = {
    "Celo": functools.partial(Celo, num_steps=HORIZON),
    "CeloRule": CeloRule,
    "CeloAdam": functools.partial(CeloAdam, num_steps=HORIZON, weights={"scheduler": THETA["scheduler"]}),
    "Celo2": functools.partial(Celo2, weights=CELO2_THETA),
    "Celo2Base": functools.partial(Celo2Base, weights=CELO2_THETA),
    "VeLO": functools.partial(VeLO, num_steps=HORIZON, weights=VELO_THETA, mixture_scale=2.0),
}


def take_steps(optimizer, steps=3, begin=0):
    """Steps whose gradients and losses depend on their number alone."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(begin, begin + steps):
        draw = np.random.default_rng(step)
        for p in params:
            p.grad = torch.tensor(draw.normal(size=p.shape)).to(p.dtype)
        optimizer.step(loss=3.0 * 0.9**step + 0.1 * draw.random())
    return [p.detach().clone() for p in params]


def everything(optimizer):
    """All tensors that steps change, but the parameters."""
    saved = optimizer.state_dict()
    found = {f"{i}/{name}": x for i, state in saved["state"].items() for name, x in state.items()}
    for i, group in enumerate(saved["param_groups"]):
        found |= {f"group {i}/{name}": x for name, x in group.items() if isinstance(x, torch.Tensor)}
    return {name: x.clone() for name, x in found.items()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, x in left.items():
        assert x.dtype == right[name].dtype
        assert torch.equal(x, right[name]), name


def assert_equal(left, right):
    for i, (x, y) in enumerate(zip(left, right, strict=True)):
        assert torch.equal(x, y), i


# ---------------------------------------------------------------------- where the loss comes from


def last_loss(optimizer):
    """The loss that the first step took in, which is then the minimum of all averages."""
    return optimizer.param_groups[0]["schedule_loss_minima"][0].item()


def one_step(report=(), **arguments):
    p = leaf(3)
    optimizer = Celo([p], HORIZON)
    p.grad = torch.ones(3)
    for loss in report:
        optimizer.report_loss(loss)
    returned = optimizer.step(**arguments)
    return returned, last_loss(optimizer)


@pytest.mark.parametrize(
    "loss", [2.5, np.float32(2.5), torch.tensor(2.5), torch.tensor([2.5]), torch.tensor(2.5).half()]
)
def test_a_loss_may_be_a_tensor_or_a_number(loss):
    assert one_step(loss=loss) == (None, pytest.approx(2.5))
    assert one_step(report=[loss]) == (None, pytest.approx(2.5))
    assert one_step(closure=lambda: loss) == (loss, pytest.approx(2.5))


def test_a_given_loss_goes_before_the_closures_and_that_before_reported_ones():
    assert one_step([1.0], closure=lambda: 2.0, loss=3.0) == (2.0, pytest.approx(3.0))
    assert one_step([1.0], closure=lambda: 2.0) == (2.0, pytest.approx(2.0))
    assert one_step([1.0]) == (None, pytest.approx(1.0))
    assert one_step([1.0], closure=lambda: None) == (None, pytest.approx(1.0))


def test_reported_losses_are_averaged_and_count_for_one_step():
    assert one_step([1.0, torch.tensor(2.0), 6.0])[1] == pytest.approx(3.0)
    p = leaf(3)
    optimizer = Celo([p], HORIZON)
    p.grad = torch.ones(3)
    optimizer.report_loss(1.0)
    optimizer.step()
    with pytest.raises(CeloError, match="this step has none"):
        optimizer.step()


def test_a_missing_loss_is_refused_with_the_ways_to_give_it_and_nothing_changes():
    optimizer = Celo(leaves(), HORIZON)
    before, params = everything(optimizer), take_no_step(optimizer)
    with pytest.raises(
        CeloError, match=r"Celo reads the training loss.*step\(loss=loss\).*report_loss.*CeloRule"
    ):
        optimizer.step()
    assert_same(everything(optimizer), before)
    assert_equal(take_no_step(optimizer), params)
    rule = CeloRule(leaves())
    take_no_step(rule)
    rule.step()  # reads none


def take_no_step(optimizer):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p in params:
        p.grad = torch.ones_like(p)
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("loss", [torch.ones(2), torch.ones(3, 1), np.ones(4)])
def test_a_loss_that_is_no_scalar_is_refused(loss):
    shape = rf"\[{', '.join(map(str, loss.shape))}\]"
    with pytest.raises(CeloError, match=f"the loss must be a scalar, got shape {shape}; pass its mean"):
        one_step(loss=loss)
    with pytest.raises(CeloError, match="pass its mean"):
        one_step([loss])


def test_a_closure_runs_with_gradients_on_and_its_value_is_returned():
    p = leaf(4, 5)
    optimizer = Celo([p], HORIZON)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = p.square().mean()
        loss.backward()
        return loss

    before = p.detach().clone()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.requires_grad
    assert loss.item() == pytest.approx(before.square().mean().item())
    assert not torch.equal(p, before)


def test_the_loss_is_not_kept_alive():
    p = leaf(3)
    optimizer = Celo([p], HORIZON)
    optimizer.report_loss(p.sum())
    assert not any(loss.requires_grad for loss in optimizer._reported)


# ---------------------------------------------------------------------- parameters and gradients


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_parameters_without_a_gradient_stay_as_they_are(make):
    params = leaves()
    optimizer = make(params)
    take_steps(optimizer, 2)
    alone, before = params[1].detach().clone(), everything(optimizer)
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in params)
    params[0].grad = torch.ones(5, 6)
    optimizer.step(loss=1.0)
    assert torch.equal(params[1], alone)
    for name, x in everything(optimizer).items():
        if name.startswith("1/"):
            assert torch.equal(x, before[name])
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad.eq(0).all()
    nothing = everything(optimizer)
    optimizer.zero_grad()
    optimizer.step(loss=1.0)  # no gradient at all
    assert_same(everything(optimizer), nothing)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_empty_tensors_are_left_alone(make):
    params = [leaf(0), leaf(3, 0), leaf(4)]
    after = take_steps(make(params), 2)
    assert [x.shape for x in after] == [(0,), (3, 0), (4,)]
    assert not torch.equal(after[2], leaf(4))
    take_steps(make([leaf(0)]), 2)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_maximize_goes_the_way_of_the_opposite_gradient(make):
    params, others = leaves(), leaves()
    up, down = make(params, maximize=True), make(others)
    for p, q in zip(params, others, strict=True):
        p.grad, q.grad = torch.ones_like(p), -torch.ones_like(q)
    up.step(loss=1.0)
    down.step(loss=1.0)
    assert_equal(params, others)
    assert all(p.grad.eq(1).all() for p in params), "gradients are not changed"


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_named_parameters_keep_their_names(make):
    optimizer = make(list(zip(SHAPES, leaves(), strict=True)))
    assert optimizer.param_groups[0]["param_names"] == list(SHAPES)
    assert_equal(take_steps(optimizer), take_steps(make(leaves())))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_float64_parameters_are_updated_in_float64(make):
    doubles = take_steps(make(leaves(torch.float64)))
    for x, y in zip(doubles, take_steps(make(leaves())), strict=True):
        assert x.dtype == torch.float64
        torch.testing.assert_close(x.float(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_default_dtype_of_pytorch_changes_nothing(make, dtype):
    expected = make(leaves())
    params = take_steps(expected)
    torch.set_default_dtype(dtype)
    try:
        optimizer = make(leaves())
        assert_equal(take_steps(optimizer), params)
        assert_same(everything(optimizer), everything(expected))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_model_may_be_made_on_the_meta_device_and_filled_later(make):
    with torch.device("meta"):
        model = torch.nn.Linear(6, 5)
        optimizer = make(model.parameters(), nonfinite="skip")
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.to_empty(device="cpu")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    filled = [leaf(5, 6), leaf(5)]
    with torch.no_grad():
        for p, q in zip(model.parameters(), filled, strict=True):
            p.copy_(q)
    assert_equal(take_steps(optimizer), take_steps(make(filled, nonfinite="skip")))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_complex_and_whole_numbers_are_refused_by_name(make):
    with pytest.raises(CeloError, match=r"torch\.complex64\[3\].*view_as_real"):
        make([torch.ones(3, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(CeloError, match=r"'count' torch\.int32\[2\]"):
        make([("w", leaf(3)), ("count", torch.ones(2, dtype=torch.int32))])


@pytest.mark.parametrize("layout", ["to_sparse_coo", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_are_refused(layout):
    p = leaf(4, 3)
    optimizer = Celo([p], HORIZON, nonfinite="skip")
    p.grad = getattr(torch.eye(4, 3), layout)() if layout == "to_sparse_coo" else None
    if p.grad is None:
        p = getattr(torch.eye(4, 3), layout)().requires_grad_()
        optimizer = Celo([p], HORIZON)
        p.grad = torch.eye(4, 3).to_sparse_csr()
    with pytest.raises(CeloError, match=r"\[4, 3\] is sparse.*sparse=False"):
        optimizer.step(loss=1.0)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_not_supported_is_refused(make):
    with pytest.raises(CeloError, match=r"differentiable=True.*JAX"):
        make(leaves(), differentiable=True)
    with pytest.raises(CeloError, match=r"fused=True.*leave it out"):
        make(leaves(), fused=True)
    make(leaves(), fused=False, differentiable=False, capturable=False, foreach=True)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and at least 0, got -1.0"),
        ({"lr": float("nan")}, "lr must be finite and at least 0, got nan"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0, got -0.1"),
        ({"nonfinite": "skipp"}, "'skipp'; known, nearest first: skip"),
    ],
)
def test_options_out_of_range_are_refused(make, options, message):
    with pytest.raises(CeloError, match=message):
        make(leaves(), **options)


@pytest.mark.parametrize("make", [Celo, CeloRule])
def test_a_floor_out_of_range_is_refused(make):
    with pytest.raises(CeloError, match=r"min_rms must be finite and at least 0, got -1"):
        make(leaves(), HORIZON, min_rms=-1)


@pytest.mark.parametrize("plateau", [0, 1, -0.5, 2.0, float("nan")])
@pytest.mark.parametrize("make", [OPTIMIZERS[name] for name in ("Celo", "CeloAdam", "VeLO")])
def test_a_plateau_is_a_share(make, plateau):
    with pytest.raises(CeloError, match=rf"plateau must be a share.*between 0 and 1, got {plateau}"):
        make(leaves(), plateau=plateau)


@pytest.mark.parametrize("num_steps", [0, -1, 2**31, True, 1.5, "10", None])
def test_a_horizon_is_a_positive_whole_number(num_steps):
    optimizer = Celo(leaves(), HORIZON, plateau=0.5)
    before = everything(optimizer)
    for call in (lambda n: Celo(leaves(), n), optimizer.set_horizon, optimizer.cool_down):
        with pytest.raises(CeloError, match=f"num_steps must be .*got {num_steps!r}"):
            call(num_steps)
    assert_same(everything(optimizer), before)
    with pytest.raises(CeloError, match="num_steps"):
        CeloAdam(leaves(), num_steps, weights={"scheduler": THETA["scheduler"]})


def test_a_horizon_far_outside_the_trained_ones_is_warned_of():
    with pytest.warns(
        celo.OutOfRangeWarning, match=r"num_steps is 7,.*CeloRule with a scheduler of torch"
    ) as seen:
        Celo(leaves(), 7)
    assert seen[0].filename == __file__
    with pytest.warns(celo.OutOfRangeWarning, match=r"80,000,000 parameters"):
        CeloRule([torch.empty(80_000_000, device="meta", requires_grad=True)])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_its_text_is_short_and_says_the_options(make):
    optimizer = make([{"params": leaves()}, {"params": [leaf(100, 100)], "lr": 0.5}], weight_decay=0.25)
    text = repr(optimizer)
    assert text.startswith(type(optimizer).__name__)
    assert "68, 10,000" in text
    assert "weight_decay: 0.25" in text
    assert "tensor" not in text
    assert len(text.splitlines()) < 15


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_learning_rate_may_be_a_tensor(make):
    expected = take_steps(make(leaves(), lr=0.3, weight_decay=0.01))
    found = take_steps(make(leaves(), lr=torch.tensor(0.3), weight_decay=0.01))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_scheduler_of_pytorch_multiplies_the_learned_step(make):
    p, q = leaf(6, 7), leaf(6, 7)
    whole, halved = make([p]), make([q])
    scheduler = torch.optim.lr_scheduler.LambdaLR(halved, lambda step: 0.5)
    before = p.detach().clone()
    p.grad = q.grad = leaf(6, 7, seed=3).detach()
    whole.step(loss=1.0)
    halved.step(loss=1.0)
    scheduler.step()
    torch.testing.assert_close(2 * (q - before), p - before, rtol=1e-4, atol=1e-6)


def test_step_hooks_run():
    optimizer, seen = Celo(leaves(), HORIZON), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    take_steps(optimizer, 2)
    assert seen == ["before", "after"] * 2


# ---------------------------------------------------------------------- groups


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_group_that_is_added_later_shares_the_schedule(make):
    params = leaves()
    optimizer = make(params[:2], nonfinite="shrink")
    take_steps(optimizer, 2)
    optimizer.add_param_group({"params": params[2:], "lr": 0.5})
    first, second = optimizer.param_groups
    for name in optimizer._shared:
        assert first[name] is second[name]
    take_steps(optimizer, 2)
    for name in optimizer._shared:
        assert first[name] is second[name]
    if optimizer._schedule_there:
        assert int(second["schedule_clock"]) == 4
    assert second["lr"] == 0.5


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was(make):
    optimizer = make(leaves())
    before, expected = everything(optimizer), make(leaves())
    for wrong in (
        {"params": [leaf(3)], "lr": -1.0},
        {"params": [leaf(3), torch.ones(3, dtype=torch.complex64, requires_grad=True)]},
    ):
        with pytest.raises(CeloError):
            optimizer.add_param_group(wrong)
    assert_same(everything(optimizer), before)
    assert_equal(take_steps(optimizer), take_steps(expected))


def test_a_schedule_that_is_not_there_cannot_be_edited():
    with pytest.raises(CeloError, match="CeloRule has no learned schedule"):
        CeloRule(leaves()).set_horizon(10)
    with pytest.raises(CeloError, match="CeloRule has no learned schedule"):
        CeloRule(leaves()).cool_down(10)
    with pytest.raises(CeloError, match=r"no plateau to leave.*plateau=0\.5"):
        Celo(leaves(), HORIZON).cool_down(10)


# ---------------------------------------------------------------------- numbers that are not finite

BAD_STEPS = {3: "gradient", 4: "gradient", 9: "loss", 15: "both", 29: "gradient"}


def spoiled(number, bad_steps=None):
    params, grads, losses = side_by_side.problem(SHAPES, steps=30)
    for step, what in (BAD_STEPS if bad_steps is None else bad_steps).items():
        if what != "loss":
            grads["v"][step, 2, 3] = number
        if what != "gradient":
            losses[step] = number
    return params, grads, losses


@pytest.mark.parametrize("number", slow_but([np.nan], [np.nan, -np.inf]))
@pytest.mark.parametrize(
    ("optimizer", "policy"),  # policies are of all optimizers: Celo's are quick, and one of another
    [
        pytest.param(
            name,
            policy,
            marks=[pytest.mark.slow] * (name != "Celo" and (name, policy) != ("CeloAdam", "hold")),
        )
        for name in ("Celo", "CeloAdam", "VeLO")
        for policy in (None, *POLICIES)
    ],
)
def test_bad_steps_are_treated_as_in_jax(optimizer, policy, number):
    options = {"nonfinite": policy, "weight_decay": 0.02}
    problem = spoiled(number)
    in_jax = {
        "Celo": lambda: celo.celo(HORIZON, **options),
        "CeloAdam": lambda: celo.celo_adam(HORIZON, weights={"scheduler": THETA["scheduler"]}, **options),
        "VeLO": lambda: celo.velo(HORIZON, weights=VELO_THETA, mixture_scale=2.0, **options),
    }[optimizer]()
    theirs, state = side_by_side.in_jax(in_jax, *problem)
    ours, made = side_by_side.in_torch(functools.partial(OPTIMIZERS[optimizer], **options), *problem)
    far = side_by_side.deviations(ours, theirs)
    assert max(far.values()) <= 1e-4, far
    group = made.param_groups[0]
    if policy is None:
        assert "bad_gradients" not in group
        return
    assert group["bad_gradients"].item() == int(state.bad_gradients) == 4
    assert group["bad_losses"].item() == int(state.bad_losses) == 2
    assert group["bad_in_a_row"].item() == int(state.in_a_row) == 1
    assert group["shrink"].item() == pytest.approx(float(state.scale))
    assert (group["shrink"].item() < 0.2) == (policy == "shrink")
    schedule = jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "keeps_time"))
    (schedule,) = [s for s in schedule if hasattr(s, "keeps_time")]
    assert group["schedule_clock"].item() == int(schedule.step) == (25 if policy == "hold" else 30)
    assert group["schedule_losses_seen"].item() == int(schedule.losses.step)


@pytest.mark.parametrize("policy", ["hold", "skip", "shrink"])
def test_a_bad_first_step_leaves_parameters_and_statistics(policy):
    problem = spoiled(np.inf, {0: "both"})
    first = tuple({n: g[:1] for n, g in x.items()} if i == 1 else x for i, x in enumerate(problem[:2]))
    for make in OPTIMIZERS.values():
        path, optimizer = side_by_side.in_torch(
            functools.partial(make, nonfinite=policy, weight_decay=0.1), *first, problem[2][:1]
        )
        for points in path.values():
            np.testing.assert_array_equal(points[0], points[1])
        for state in optimizer.state.values():
            assert all(x.eq(0).all() for name, x in state.items() if name not in ("hidden", "cell"))


def test_the_rule_counts_without_a_loss():
    p = leaf(4, 5)
    optimizer = CeloRule([p], nonfinite="skip")
    before = p.detach().clone()
    p.grad = torch.full((4, 5), torch.nan)
    optimizer.step()
    assert torch.equal(p, before)
    assert [int(optimizer.param_groups[0][n]) for n in ("bad_gradients", "bad_losses")] == [1, 0]


def test_plateau_cool_down_and_horizon_are_as_in_jax():
    params, grads, losses = side_by_side.problem(SHAPES, steps=45)
    tx = celo.celo(HORIZON, plateau=0.25)
    jitted = jax.jit(tx.update)
    theirs, state = params, tx.init(params)
    tensors = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    optimizer = Celo(tensors.values(), HORIZON, plateau=0.25)
    for step, loss in enumerate(losses):
        if step == 10:
            state = celo.with_horizon(state, 80)
            optimizer.set_horizon(80)
        if step == 30:
            assert optimizer.param_groups[0]["schedule_clock"].item() == 20
            state = celo.cool_down(state, 15)
            optimizer.cool_down(15)
        now = {name: grads[name][step] for name in params}
        updates, state = jitted(now, state, theirs, value=loss)
        theirs = {name: theirs[name] + updates[name] for name in params}
        for name, x in tensors.items():
            x.grad = torch.tensor(now[name])
        optimizer.step(loss=torch.tensor(loss))
    far = side_by_side.deviations(
        {name: np.stack([params[name], x.detach().numpy()]) for name, x in tensors.items()},
        {name: np.stack([params[name], np.asarray(x)]) for name, x in theirs.items()},
    )
    assert max(far.values()) <= 1e-4, far
    group = optimizer.param_groups[0]
    assert group["schedule_clock"].item() == group["schedule_num_steps"].item()


# ---------------------------------------------------------------------- saving and restoring


def two_groups(params):
    return [{"params": params[:2], "lr": 0.5}, {"params": params[2:], "weight_decay": 0.01}]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("divide", [list, two_groups], ids=["one", "two"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_restored_run_goes_on_bit_for_bit(make, divide, dtype):
    whole = make(divide(leaves(dtype)), nonfinite="shrink")
    take_steps(whole, 5)
    params = leaves(dtype)
    first = make(divide(params), nonfinite="shrink")
    halfway = take_steps(first, 3)
    saved = through_a_file(first.state_dict())
    params = [p.requires_grad_() for p in halfway]
    second = make(divide(params), nonfinite="shrink")
    second.load_state_dict(saved)
    assert_same(everything(second), everything(first))
    take_steps(second, 2, begin=3)
    assert_same(everything(second), everything(whole))
    expected = [p for group in whole.param_groups for p in group["params"]]
    assert_equal(params, expected)
    assert {x.dtype for state in second.state.values() for x in state.values()} == {torch.float32}
    for name in second._shared:
        assert len({id(group[name]) for group in second.param_groups}) == 1
    assert second.param_groups[0]["lr"] == whole.param_groups[0]["lr"]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_loaded_state_is_a_copy(make):
    first = make(leaves())
    take_steps(first, 2)
    second = make(leaves())
    second.load_state_dict(first.state_dict())
    before = everything(first)
    take_steps(second, 2)
    assert_same(everything(first), before)


def refused(optimizer, state, message):
    before, options = everything(optimizer), [dict(g) for g in optimizer.state_dict()["param_groups"]]
    with pytest.raises(CeloError, match=message):
        optimizer.load_state_dict(state)
    assert_same(everything(optimizer), before)
    for group, then in zip(optimizer.state_dict()["param_groups"], options, strict=True):
        assert group.keys() == then.keys()
        assert group["lr"] == then["lr"]
    take_steps(optimizer)


def saved_by(optimizer, steps=1):
    take_steps(optimizer, steps)
    return optimizer.state_dict()


class LossBlind:
    """An optimizer of PyTorch, which takes no loss."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    def step(self, loss):
        self.optimizer.step()

    def state_dict(self):
        return self.optimizer.state_dict()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_state_of_other_shapes_is_refused(make):
    state = saved_by(make([leaf(5, 7), leaf(5, 7), leaf(7), leaf()]))
    refused(make(leaves()), state, r"parameter \[5, 6\].*\(5, 7\).*expected.*\(5, 6\).*same model")


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_state_of_another_optimizer_is_refused(make):
    others = {name: saved_by(other(leaves())) for name, other in OPTIMIZERS.items() if other is not make}
    others["AdamW"] = saved_by(LossBlind(torch.optim.AdamW(leaves())))
    others["SGD"] = saved_by(LossBlind(torch.optim.SGD(leaves(), lr=0.1)))
    others["momentum"] = saved_by(LossBlind(torch.optim.SGD(leaves(), lr=0.1, momentum=0.9)))
    for state in others.values():
        refused(make(leaves()), state, "another optimizer|model or optimizer")


def test_a_state_with_other_options_is_refused():
    refused(
        Celo(leaves(), HORIZON, nonfinite="skip"), saved_by(Celo(leaves(), HORIZON)), "bad_gradients.*options"
    )
    refused(
        Celo(leaves(), HORIZON), saved_by(Celo(leaves(), HORIZON, nonfinite="skip")), "bad_gradients.*options"
    )


def test_a_state_of_other_groups_is_refused_by_pytorch():
    optimizer = Celo(leaves(), HORIZON)
    before = everything(optimizer)
    with pytest.raises(ValueError, match="parameter groups"):
        optimizer.load_state_dict(Celo(two_groups(leaves()), HORIZON).state_dict())
    assert_same(everything(optimizer), before)


def test_hooks_may_change_what_is_loaded():
    first, second = Celo(leaves(), HORIZON), Celo(leaves(), HORIZON)
    take_steps(first)

    def forget(_, state):
        return {**state, "state": {i: {n: 0 * x for n, x in s.items()} for i, s in state["state"].items()}}

    second.register_load_state_dict_pre_hook(forget)
    second.load_state_dict(first.state_dict())
    assert all(x.eq(0).all() for state in second.state.values() for x in state.values())
    assert second.param_groups[0]["schedule_clock"] == 3


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_copy_goes_on_as_the_original_does(make, copied):
    optimizer = make(two_groups(leaves()), nonfinite="hold")
    take_steps(optimizer, 2)
    other = copied(optimizer)
    before = everything(optimizer)
    found = take_steps(other, 2, begin=2)
    assert_same(everything(optimizer), before)
    assert_equal(take_steps(optimizer, 2, begin=2), found)
    assert_same(everything(optimizer), everything(other))
    assert repr(other) == repr(optimizer)
    other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_distributed_checkpoints_hold_it(make, tmp_path):
    def model_and_optimizer():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 5))
        return model, make(model.parameters(), nonfinite="skip")

    model, optimizer = model_and_optimizer()
    take_steps(optimizer, 2)
    dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path)
    other, second = model_and_optimizer()
    state = {"optimizer": get_optimizer_state_dict(other, second)}
    dcp.load(state, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, second, state["optimizer"])
    assert_same(everything(second), everything(optimizer))
    other.load_state_dict(model.state_dict())
    assert_equal(take_steps(second, 2, begin=2), take_steps(optimizer, 2, begin=2))


# ---------------------------------------------------------------------- PyTorch's own machinery


def test_a_step_that_gradient_scaling_skips_is_not_heard_of():
    p = leaf(4, 5)
    optimizer = Celo([p], HORIZON)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale((p * (torch.inf if step == 1 else 1.0)).sum()).backward()
        before, statistics = p.detach().clone(), everything(optimizer)
        scaler.step(optimizer, loss=torch.tensor(1.0))
        scaler.update()
        if step == 1:
            assert torch.equal(p, before)
            assert_same(everything(optimizer), statistics)
        else:
            assert not torch.equal(p, before)
            assert p.grad.eq(1).all(), "gradients arrive without the scale"
    assert int(optimizer.param_groups[0]["schedule_clock"]) == 2
    assert scaler.get_scale() == 2.0


def test_accumulated_gradients_are_as_one_large_batch():
    data = torch.tensor(np.random.default_rng(0).normal(size=(10, 4, 6)), dtype=torch.float32)

    def trained(parts):
        weight = leaf(6, 5)
        # Element by element: orthogonalised steps magnify the rounding of sums taken in another order.
        optimizer = Celo([weight], HORIZON, weights="celo-1")
        for batch in data:
            optimizer.zero_grad()
            for part in batch.chunk(parts):
                loss = (part @ weight).square().mean()
                (loss / parts).backward()
                optimizer.report_loss(loss)
            optimizer.step()
        return weight.detach(), everything(optimizer)

    (whole, state), (accumulated, other) = trained(1), trained(4)
    torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-5)
    assert not torch.equal(whole, leaf(6, 5))
    for name, x in state.items():
        torch.testing.assert_close(other[name], x, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_compiled_step_is_the_same_and_is_compiled_once(make):
    torch._dynamo.reset()
    expected = take_steps(make(leaves(), nonfinite="shrink", lr=0.5), 8)
    params = leaves()
    optimizer = make(params, nonfinite="shrink", lr=torch.tensor(0.5))
    compiled = torch.compile(optimizer.step)
    counts = []
    for step in range(8):
        draw = np.random.default_rng(step)
        for p in params:
            p.grad = torch.tensor(draw.normal(size=p.shape)).to(p.dtype)
        compiled(loss=torch.tensor(3.0 * 0.9**step + 0.1 * draw.random(), dtype=torch.float32))
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] > 0
    assert counts[-1] == counts[2], counts
    for x, y in zip(params, expected, strict=True):
        torch.testing.assert_close(x.detach(), y, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_pytorch_users_need_no_jax():
    program = """
import sys
import celo
assert "torch" not in sys.modules
celo.torch.Celo
import celo.torch, torch
p = torch.ones(3, requires_grad=True)
p.grad = torch.ones(3)
celo.torch.Celo([p], num_steps=100).step(loss=1.0)
found = {"jax", "jaxlib", "optax", "celo.optimizers", "celo._kernels"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_steps_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_steps(Celo(leaves(), HORIZON, nonfinite="shrink", plateau=0.5))
