"""`celo race`: one task, a small protocol, the same report as of a suite."""

import sys

import pytest

from celo import cli
from celo.evaluate._records import load_records
from celo.evaluate._report import files, write

SHORT = ["--tasks", "quadratic", "--steps", "20", "--seeds", "2", "--workers", "1", "--kernel", "xla"]


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    pytest.importorskip("altair", reason="needs celo[plots]")
    out = tmp_path_factory.mktemp("race") / "new"
    with pytest.MonkeyPatch.context() as patch:  # drawn in a test below, and in those of reports
        patch.setattr(files, "draw_all", lambda board: {"curves.svg": b"<svg/>"})
        patch.setattr(write, "page", lambda board, headline, caption: f"{headline}\n{caption}")
        assert cli.main(["race", *SHORT, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_celo_and_adam_race_by_default(raced):
    adam, celo = load_records(raced / "records")
    assert (adam.contestant, celo.contestant) == ("adam", "celo")
    assert len(adam.rates) == 7
    assert adam.rung_steps.tolist() == [20]  # every rate ran to the end
    assert len(set(adam.seeds) | set(adam.settings.protocol.tuning_seeds)) == 4
    assert celo.rate is None
    assert adam.train_loss.shape == celo.train_loss.shape == (2, 21)


def test_the_report_is_that_of_an_evaluation(raced):
    assert {path.name for path in raced.iterdir()} == {
        *("records", "figures", "leaderboard.md", "scores.csv", "report.html")
    }
    assert "celo race --tasks quadratic --steps 20" in (raced / "leaderboard.md").read_text()


def test_another_contestant_is_added_and_the_others_are_not_run_again(raced, undrawn, capsys):
    before = (raced / "records" / "quadratic" / "celo.npz").stat().st_mtime_ns
    assert cli.main(["race", "sgd", *SHORT, "--out", str(raced)]) == 0
    printed = capsys.readouterr().out
    assert "sgd" in printed
    assert str(raced / "report.html") in printed.replace("\n", "")
    assert (raced / "records" / "quadratic" / "celo.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_task_of_ones_own_is_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("altair", reason="needs celo[plots]")
    text = "from celo.tasks import Quadratics\n\nvalley = Quadratics()\n"
    (tmp_path / "own_race.py").write_text(text)
    monkeypatch.chdir(tmp_path)  # where the module is, and the report will be
    try:
        assert cli.main(["race", *SHORT, "--tasks", "own_race:valley"]) == 0
    finally:
        sys.modules.pop("own_race", None)
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("On "))
    assert first.startswith("On own_race:valley, celo ")
    assert "tuned adam's" in first
    assert (tmp_path / "race" / "report.html").is_file()
    assert (tmp_path / "race" / "figures" / "curves.svg").is_file()


def test_a_race_of_other_settings_is_not_mixed_with_it(raced, capsys):
    assert cli.main(["race", *SHORT, "--steps", "30", "--out", str(raced)]) == 2
    error = capsys.readouterr().err
    assert "with num_steps 20, asked for is 30" in error.replace("--steps", "num_steps")
    assert "another --out" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "digits_mlp"], "unknown task 'digits_mlp'"),
        (["adan"], "unknown contestant 'adan'"),
        (["cello.safetensors"], "no such file"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--kernel", "cuda"], "unknown kernel 'cuda'"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(words, message, tmp_path, capsys):
    pytest.importorskip("altair", reason="needs celo[plots]")
    assert cli.main(["race", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
