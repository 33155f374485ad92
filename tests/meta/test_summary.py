"""What a run logged, summed up."""

import json

import pytest

from celo.meta import draw_metrics, read_metrics, summarize


def test_a_log_cut_short_by_a_crash_is_read(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text(json.dumps({"outer_step": 10}) + '\n{"outer_st')
    assert read_metrics(log) == [{"outer_step": 10}]


def rows(phase, losses, nonfinite=0.0):
    return [
        {
            "phase": phase,
            "outer_step": 10 * (i + 1),
            "meta_loss": loss,
            "tasks": {"a": loss, "b": 2.0 - loss},
            "nonfinite_fraction": nonfinite,
        }
        for i, loss in enumerate(losses)
    ]


def test_phases_are_summed_up_by_their_first_and_last_tenth():
    falling = [1.0] * 2 + [0.7] * 16 + [0.4, 0.6]
    first, second = summarize([*rows("rule", falling), *rows("scheduler", [0.5] * 3)])
    assert (first.name, second.name) == ("rule", "scheduler")
    assert first.meta_loss == pytest.approx((1.0, 0.5))
    assert first.tasks["b"] == pytest.approx((1.0, 1.5))
    assert "improved most on a (-50%); b got worse (+50%)" in first.advice
    assert second.advice.startswith("no improvement")


def test_diverged_inner_steps_are_told_before_all_else():
    (phase,) = summarize(rows("rule", [1.0, 0.5], nonfinite=0.02))
    assert phase.nonfinite == pytest.approx(0.02)
    assert "gradient_clip" in phase.advice


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = draw_metrics([*rows("rule", [1.0, 0.5, 0.4]), *rows("scheduler", [0.4])], tmp_path / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[1, 2]", b"7", b""])
def test_a_damaged_line_ends_what_is_read_of_a_log(tmp_path, damage):
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'{"outer_step": 10}\n' + damage + b'\n{"outer_step": 30}\n')
    assert read_metrics(log) == [{"outer_step": 10}]
