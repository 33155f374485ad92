"""Contestants by name: baselines, weights, optimizers of your own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small import PROTOCOL, Here, job, run

from celo import weights
from celo._errors import CeloError
from celo.evaluate._records import load_records
from celo.evaluate._run.baselines import BASELINES
from celo.evaluate._run.contestants import resolve_contestant, resolve_contestants
from celo.evaluate._settings import Kind


def test_contestants_by_name_and_file(tmp_path):
    assert len(resolve_contestants(["baselines"])) == len(BASELINES)
    theta = tmp_path / "theta.safetensors"
    weights.save(theta, weights.load("celo").theta, metadata={"architecture": "celo"})
    assert resolve_contestant(f"mine={theta}").name == "mine"
    assert resolve_contestant(str(theta)).name == "theta"
    for text in ("adamm", f"adam={theta}", f"a/b={theta}"):
        with pytest.raises(CeloError):
            resolve_contestant(text)


def test_a_baseline_under_another_name():
    one = resolve_contestant("slow=schedule_free_adamw")
    assert (one.name, one.tuned) == ("slow", True)
    assert one.facts == resolve_contestant("schedule_free_adamw").facts
    assert one.answer is resolve_contestant("schedule_free_adamw").answer is not None
    with pytest.raises(CeloError, match="'lion' cannot be its name; write NAME=adam"):
        resolve_contestant("lion=adam")
    with pytest.raises(CeloError, match=r"unknown contestant 'adm'.*nearest first: adam"):
        resolve_contestant("slow=adm")


def test_one_learning_rate_on_all_tasks(own_module):
    one = resolve_contestant("schedule_free_adamw@3e-3")
    assert (one.name, one.tuned, one.facts.rate) == ("schedule_free_adamw@0.003", False, 0.003)
    assert one.facts.kind == Kind.ONE_SETTING
    tuned = resolve_contestant("schedule_free_adamw")
    assert dataclasses.replace(one.facts, rate=None) == tuned.facts
    assert one.answer is tuned.answer  # what it is does not depend on who chose its rate
    assert len(resolve_contestants(["adam@0.001", "adam@1e-3", "adam@0.003"])) == 2
    own = resolve_contestant(f"{own_module}:make@0.5")
    assert (own.name, own.facts.rate, own.optimizer) == ("make@0.5", 0.5, f"{own_module}:make")
    assert own.facts.source_sha256 == resolve_contestant(f"{own_module}:make").facts.source_sha256
    named = resolve_contestant("slow=adam@1e-5")
    assert (named.name, named.facts.rate) == ("slow", 1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adam@", "'' is no learning rate; write one, as in adam@0.001"),
        ("adam@fast", "'fast' is no learning rate"),
        ("adam@0", "'0' is no learning rate"),
        ("adam@-1e-3", "'-1e-3' is no learning rate"),
        ("adam@inf", "'inf' is no learning rate"),
        ("celo@0.1", "celo has no learning rate to be fixed; leave @0.1 out"),
        ("adamm@0.1", "unknown contestant 'adamm'.*nearest first: adam"),
        ("lion=adam@0.1", "'lion' cannot be its name; write NAME=adam@0.1"),
        ("=adam@0.1", "'' cannot be its name"),
        ("a/b=adam@0.1", "'a/b' cannot be its name"),
        ("adam@0.1@0.2", "adam@0.1 has no learning rate to be fixed; leave @0.2 out"),
    ],
)
def test_slips_in_naming_a_learning_rate(text, words):
    with pytest.raises(CeloError, match=words):
        resolve_contestant(text)


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    (tmp_path / "a@b").mkdir()
    theta = tmp_path / "a@b" / "theta.safetensors"
    weights.save(theta, weights.load("celo").theta, metadata={"architecture": "celo"})
    assert resolve_contestant(str(theta)).name == "theta"


def test_an_optimizer_of_ones_own_is_tuned_like_any_other(tmp_path, own_module):
    out = tmp_path / "out"
    assert run([job(f"{own_module}:make"), job(f"mine={own_module}:make")], out, Here()) == []
    one, two = load_records(out)
    assert (one.contestant, two.contestant) == ("make", "mine")
    assert one.rate in PROTOCOL.rates
    assert one.settings.contestant.optimizer == "own_optimizers:make"
    np.testing.assert_array_equal(one.train_loss, two.train_loss)


def test_an_optimizer_that_asks_for_the_value_of_its_rate(tmp_path, own_module):
    (line,) = run([job(f"{own_module}:asks")], tmp_path, Here())
    assert "asks for the value of its learning rate, which is traced; write a schedule as a factor" in line


def test_code_of_ones_own_that_has_changed_is_not_taken_for_what_ran(tmp_path, own_module):
    with pytest.raises(KeyboardInterrupt):
        run([job(f"{own_module}:make")], tmp_path / "out", Here(fail=2))
    file = tmp_path / "own_optimizers.py"
    file.write_text(file.read_text() + "\n# changed\n")
    pool = Here()
    assert run([job(f"{own_module}:make")], tmp_path / "out", pool) == []
    assert len(pool.trials) == 3  # none of the two that had run before
    file.write_text(file.read_text() + "\n# again\n")
    with pytest.raises(CeloError, match="made with the source_sha256"):
        run([job(f"{own_module}:make")], tmp_path / "out", Here())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("own_optimizers:mke", "unknown attribute of own_optimizers 'mke'.*nearest first: make"),
        ("own_optimizers:number", "is a int: name a function of a learning rate"),
        ("no_such_module:make", "there is no module 'no_such_module'"),
        ("adam=own_optimizers:make", "'adam' cannot be its name"),
    ],
)
def test_slips_in_naming_an_optimizer_of_ones_own(own_module, place, words):
    with pytest.raises(CeloError, match=words):
        resolve_contestant(place)


def test_weights_of_celo_adam_run_as_celo_adam(tmp_path):
    theta = tmp_path / "theta.safetensors"
    scheduler = {"scheduler": weights.load("celo").theta["scheduler"]}
    weights.save(theta, scheduler, metadata={"architecture": "celo_adam"})
    params, grads = {"x": jnp.array([3.0, -300.0])}, {"x": jnp.array([1e-3, -1e3])}
    tx = resolve_contestant(str(theta)).transform(100, "xla")(1.0)
    updates, _ = tx.update(grads, tx.init(params), params, value=jnp.ones(()))
    # Adam's first step is as long for every parameter, whatever its size and gradient.
    np.testing.assert_allclose(-updates["x"][0], updates["x"][1], rtol=1e-3)
    assert updates["x"][0] < 0
    weights.save(theta, scheduler, metadata={"architecture": "celo_adm"})
    with pytest.raises(CeloError, match="unknown architecture 'celo_adm'; known, nearest first: celo_adam"):
        resolve_contestant(str(theta))
