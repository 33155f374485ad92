"""Settings: which of them two records must share."""

import dataclasses

import pytest

from celo._errors import CeloError
from celo.evaluate._settings import (
    PAPER_RATES,
    RACE_RATES,
    ContestantFacts,
    Kind,
    Protocol,
    Provenance,
    Settings,
    TaskSettings,
    as_json,
    comparable,
    differences,
    from_json,
    race_protocol,
    same_run,
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (9,), "tuning_seeds": (9,)}, r"seeds \[9\]"),
        ({"first_share": 0.0}, "first_share"),
        ({"keep": 0}, "keep"),
    ],
)
def test_bad_protocols(settings, words):
    with pytest.raises(CeloError, match=words):
        Protocol(**settings)


TUNED = Settings(TaskSettings("wine_mlp"), Protocol(), ContestantFacts(optimizer="optax.adam"), None)
LEARNED = Settings(TaskSettings("wine_mlp"), Protocol(), ContestantFacts(weights_sha256="0"), "xla")
FIXED = dataclasses.replace(TUNED, contestant=ContestantFacts(optimizer="optax.adam", rate=1e-3))


@pytest.mark.parametrize(
    "change", [{"num_steps": 30}, {"eval_every": 3}, {"source_sha256": "0"}, {"name": "digits_conv"}]
)
def test_records_share_their_task(change):
    other = dataclasses.replace(LEARNED, task=dataclasses.replace(LEARNED.task, **change))
    assert not comparable(TUNED, other)
    assert [found.name for found in differences(TUNED, other)] == list(change)


def test_the_published_name_is_a_label():
    other = dataclasses.replace(TUNED, task=dataclasses.replace(TUNED.task, stands_for="Wine"))
    assert comparable(TUNED, other)


def test_seeds_are_shared_by_all_and_the_rule_of_tuning_by_those_that_are_tuned():
    other_rates, other_seeds = Protocol(rates=(1.0,)), Protocol(seeds=(5,))
    assert comparable(LEARNED, dataclasses.replace(TUNED, protocol=other_rates))
    assert not comparable(TUNED, dataclasses.replace(TUNED, protocol=other_rates))
    assert not comparable(LEARNED, dataclasses.replace(TUNED, protocol=other_seeds))
    race, keeping = race_protocol(), dataclasses.replace(race_protocol(), keep=7)  # there is nothing to keep
    assert comparable(*(dataclasses.replace(TUNED, protocol=each) for each in (race, keeping)))


def test_one_that_has_one_rate_on_all_tasks_is_neither_learned_nor_tuned():
    kinds = {TUNED: Kind.TUNED, LEARNED: Kind.LEARNED, FIXED: Kind.ONE_SETTING}
    for settings, kind in kinds.items():
        assert settings.contestant.kind == kind
        assert settings.contestant.tuned == (kind == Kind.TUNED)
    assert comparable(TUNED, dataclasses.replace(FIXED, protocol=Protocol(rates=(1.0,))))
    other = dataclasses.replace(FIXED, contestant=dataclasses.replace(FIXED.contestant, rate=3e-3))
    assert [found.name for found in same_run(FIXED, other)] == ["rate"]
    assert from_json(as_json(FIXED, Provenance())) == (FIXED, Provenance())


def test_a_record_of_other_weights_is_no_repetition_but_one_of_another_kernel_is():
    assert same_run(LEARNED, LEARNED) == []
    native = dataclasses.replace(LEARNED, kernel="native")
    assert comparable(LEARNED, native)
    assert same_run(LEARNED, native) == []  # the kernel is an implementation, not a setting
    weights = dataclasses.replace(LEARNED, contestant=ContestantFacts(weights_sha256="1"))
    assert [found.name for found in same_run(LEARNED, weights)] == ["weights_sha256"]


def test_grids():
    assert len(PAPER_RATES) == 15
    assert PAPER_RATES[0] == 1e-7
    assert PAPER_RATES[-2:] == (0.3, 1.0)
    assert set(RACE_RATES) < set(PAPER_RATES)
    assert race_protocol(2).seeds == (0, 1)
    assert not set(race_protocol(3).seeds) & set(race_protocol(3).tuning_seeds)
    with pytest.raises(CeloError, match="num_seeds must be at least 1, got 0"):
        race_protocol(0)
