"""AdamW's groups take AdamW's steps, whatever the learned schedule and policies do beside them."""

import copy

import pytest
import torch
from torch import nn

import celo.torch
from celo._errors import CeloError
from celo.torch._adam import ADAMW


def model_and_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    return model, lambda model: nn.functional.cross_entropy(model(x), y)


def groups_of(model, **options):
    """The first layer to the learned rule, the last to AdamW."""
    return [{"params": model[0].parameters()}, {"params": model[2].parameters(), "rule": "adamw", **options}]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}], ids=["plain", "own"]
)
def test_steps_are_those_of_torch_optim(options, maximize):
    model, loss_of = model_and_loss()
    twin = copy.deepcopy(model)
    optimizer = celo.torch.Celo(groups_of(model, **options), num_steps=30, maximize=maximize)
    adamw = torch.optim.AdamW(twin[2].parameters(), maximize=maximize, **options)
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        for p, q in zip(model[2].parameters(), twin[2].parameters(), strict=True):
            q.grad = p.grad.clone()
        optimizer.step(loss=loss)
        adamw.step()
        for p, q in zip(model[2].parameters(), twin[2].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_options_left_out_are_those_of_torch_optim():
    model, _ = model_and_loss()
    optimizer = celo.torch.Celo(groups_of(model), num_steps=50, lr=2.0, weight_decay=0.5)
    defaults = torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).defaults
    assert {name: defaults[name] for name in ADAMW} == ADAMW
    assert {name: optimizer.param_groups[1][name] for name in ADAMW} == ADAMW
    assert optimizer.param_groups[0]["lr"] == 2.0


def test_a_scheduler_multiplies_its_rate():
    model, loss_of = model_and_loss()
    optimizer = celo.torch.CeloRule(groups_of(model, lr=1e-2))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    loss_of(model).backward()
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 5e-3]


def test_a_group_of_an_unknown_rule_is_refused():
    model, _ = model_and_loss()
    with pytest.raises(CeloError, match="unknown rule of a group 'adam'; known, nearest first: adamw"):
        celo.torch.Celo([{"params": model.parameters(), "rule": "adam"}], num_steps=50)


def test_elements_that_are_not_finite_do_not_spoil_the_moments():
    model, loss_of = model_and_loss()
    optimizer = celo.torch.Celo(groups_of(model), num_steps=50)
    loss = loss_of(model)
    loss.backward()
    model[2].weight.grad[0, 0], model[2].weight.grad[0, 1] = torch.nan, torch.inf
    before = model[2].weight.detach().clone()
    optimizer.step(loss=loss)
    moved = model[2].weight.detach() - before * (1 - 1e-5)
    assert moved.isfinite().all()
    torch.testing.assert_close(moved[0, :2], torch.zeros(2), atol=1e-7, rtol=0)
    assert moved[0, 2:].abs().min() > 5e-4


def test_a_step_taken_back_is_not_counted():
    model, loss_of = model_and_loss()
    optimizer = celo.torch.Celo(groups_of(model), num_steps=50, nonfinite="skip")
    before = copy.deepcopy(model.state_dict())
    loss = loss_of(model)
    loss.backward()
    model[0].weight.grad[0, 0] = torch.nan
    optimizer.step(loss=loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert optimizer.state[model[2].weight]["step"] == 0


def test_a_run_with_both_rules_resumes_to_the_bit():
    def run(optimizer, model, loss_of, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step(loss=loss)

    model, loss_of = model_and_loss()
    optimizer = celo.torch.Celo(groups_of(model), num_steps=50)
    run(optimizer, model, loss_of, 5)
    twin, again = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    run(optimizer, model, loss_of, 5)
    resumed = celo.torch.Celo(groups_of(twin), num_steps=50)
    resumed.load_state_dict(again)
    run(resumed, twin, loss_of, 5)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in twin.state_dict().items())
