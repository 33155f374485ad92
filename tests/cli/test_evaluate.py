"""celo evaluate, celo race and celo report: what is printed, and what is said where something is missing.

Whole evaluations are in `tests/evaluate`; here records are made up.
"""

import dataclasses
import shlex

import pytest
import synthetic

from celo.cli import main
from celo.evaluate._records import write_record
from celo.evaluate._report import files, write

TASKS, NAMES = ("cifar10_conv", "quadratic"), ("celo", "adam", "muon", "momentum")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    for task in TASKS:
        for name in NAMES:
            write_record(folder, synthetic.record(task, name))
    return folder


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def undrawn(monkeypatch):
    """Charts and the page take seconds; what the command does with them does not depend on it."""
    pytest.importorskip("altair", reason="reports need Altair")
    pytest.importorskip("vl_convert", reason="reports need vl-convert")
    monkeypatch.setattr(files, "draw_all", lambda board: {})
    monkeypatch.setattr(write, "page", lambda *words: "page")


def table(text):
    """Name of a contestant -> its line in the table that was printed."""
    lines = [line.split() for line in text.splitlines()]
    return {words[1]: " ".join(words) for words in lines if len(words) > 2 and words[0].isdigit()}


# Reports


reports = pytest.mark.usefixtures("undrawn", "wide")


@reports
def test_the_leaderboard_is_printed_and_the_page_is_named(archive, tmp_path, capsys):
    out = tmp_path / "report[1]"
    assert main(["report", str(archive), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert set(table(text)) == set(NAMES)
    assert "Over 2 tasks, " in text
    assert f"report:  {out / 'report.html'}" in text
    assert (out / "scores.csv").is_file()


@reports
def test_options_choose_who_is_shown_on_what(archive, tmp_path, capsys):
    words = ["--contestants", "celo", "--tasks", "quadratic", "--reference", "muon", "--loss", "valid"]
    assert main(["report", str(archive), "--out", str(tmp_path), *words]) == 0
    text = capsys.readouterr().out
    assert set(table(text)) == {"celo", "muon"}
    assert "On quadratic, " in text
    assert "validation loss" in text


@reports
def test_what_all_have_is_aggregated_over_unless_all_tasks_are_asked_for(archive, tmp_path, capsys):
    more = tmp_path / "more"
    for name in ("adam", "celo"):
        write_record(more, synthetic.record("wine_mlp", name))
    words = ["report", str(archive), str(more), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    common = " ".join(capsys.readouterr().out.split())
    assert "over the 2 tasks that all contestants have" in common
    assert "set aside: wine_mlp (no record of momentum, muon)" in common
    assert "muon has no record on wine_mlp" in common
    assert main([*words, "--all-tasks"]) == 0
    assert "over all tasks that a contestant has" in " ".join(capsys.readouterr().out.split())


@reports
def test_names_in_brackets_stay_as_they_are(tmp_path, capsys):
    for name in ("mine[v2]", "adam"):
        one = dataclasses.replace(synthetic.record("quadratic", "celo"), contestant=name)
        write_record(tmp_path / "archive", one)
    write_record(tmp_path / "archive", synthetic.record("wine_mlp", "adam"))
    assert main(["report", str(tmp_path / "archive"), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "mine[v2]" in table(text)
    assert "mine[v2] has no record on wine_mlp" in text


@reports
def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(archive, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["report", str(archive), "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 50  # but for the path, which must stay whole
    [header] = [line for line in lines if "contestant" in line and "#" in line]
    assert header.split() == ["#", "contestant", "loss", "ratio", "speedup", "diverged"]
    assert set(table("\n".join(lines))) == set(NAMES)


@reports
def test_a_wide_terminal_gets_intervals(archive, tmp_path, capsys):
    assert main(["report", str(archive), "--out", str(tmp_path)]) == 0
    found = table(capsys.readouterr().out)
    assert found["celo"].count("[") >= 4


@reports
def test_a_folder_without_records_is_named(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "empty: no records; make some with `celo evaluate --out FOLDER`" in capsys.readouterr().err


# Evaluations


@pytest.fixture
def evaluated(monkeypatch):
    """(calls, failures): `evaluate` is not run; it is as if these jobs had failed."""
    calls, failures = [], []

    def evaluate(who, **settings):
        settings["out"].mkdir(parents=True, exist_ok=True)
        calls.append({"who": [one.name for one in who], **settings})
        return list(failures)

    monkeypatch.setattr("celo.evaluate._run.evaluation.evaluate", evaluate)
    return calls, failures


def test_options_reach_the_evaluation(evaluated, tmp_path, wide):
    calls, _ = evaluated
    words = ["--suite", "probe", "--task", "quadratic", "wine_mlp", "--steps", "30", "--seeds", "2"]
    words += ["--resume", "--workers", "3", "--kernel", "xla", "--scheduler", "tcp://here:1"]
    assert main(["evaluate", "celo", "slow=adam", *words, "--out", str(tmp_path)]) == 0
    [call] = calls
    progress = call.pop("progress")
    assert callable(progress)
    protocol = call.pop("protocol")
    assert protocol.seeds == (0, 1)
    assert call == {
        "who": ["celo", "slow"],
        "out": tmp_path,
        "suite": "probe",
        "tasks": ["quadratic", "wine_mlp"],
        "num_steps": 30,
        "resume": True,
        "equal_time": True,
        "imports": [],
        "scheduler": "tcp://here:1",
        "workers": 3,
        "kernel": "xla",
    }


def test_equal_time_is_an_option(evaluated, tmp_path, wide):
    assert main(["evaluate", "adam", "--no-equal-time", "--out", str(tmp_path)]) == 0
    assert evaluated[0][0]["equal_time"] is False


@pytest.mark.parametrize(
    ("words", "folder"),
    [([], "laptop"), (["--suite", "probe"], "probe"), (["--task", "quadratic"], "own")],
)
def test_records_go_into_a_folder_named_after_the_suite(words, folder, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "adam", *words]) == 0
    assert str(evaluated[0][0]["out"]) == f"evaluation/{folder}"


def test_jobs_that_failed_are_told_and_the_others_are_shown(evaluated, archive, wide, capsys):
    _, failures = evaluated
    failures.append("lion on quadratic: it is tired")
    assert main(["evaluate", "lion", "celo", "adam", "--task", *TASKS, "--out", str(archive)]) == 1
    said = capsys.readouterr()
    assert said.err == "celo: failed: lion on quadratic: it is tired\n"
    assert set(table(said.out)) == {"celo", "adam"}
    assert f"records: {archive}; to draw them: celo report {archive}" in said.out


def test_without_the_reference_there_is_no_table_but_a_word_how_to_get_one(evaluated, tmp_path, wide, capsys):
    write_record(tmp_path, synthetic.record("quadratic", "muon", num_steps=400))  # of no bundled record
    assert main(["evaluate", "muon", "--task", "quadratic", "--out", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "no table: scores are relative to adam" in text
    assert "add adam to the command, with --resume" in text


# Races


def test_the_command_of_a_race_repeats_it(tmp_path, monkeypatch, undrawn):
    """What differs from the defaults is in it; how it was run is not."""
    made = []

    def write_report(records, out, **settings):
        made.append(settings)
        return write.leaderboard(records)

    def evaluate(who, *, out, tasks, **settings):
        for one in who:
            record = synthetic.record(*tasks, "adam" if one.tuned else "celo")
            write_record(out, dataclasses.replace(record, contestant=one.name))
        return []

    monkeypatch.setattr("celo.evaluate._run.evaluation.evaluate", evaluate)
    monkeypatch.setattr(write, "write_report", write_report)
    plain = ["race", "--out", str(tmp_path / "one")]
    assert main(plain) == 0
    own = ["race", "my best=celo", "--task", "quadratic", "--steps", "77", "--seeds", "5", "--kernel", "xla"]
    assert main([*own, "--import", "json", "--workers", "1", "--out", str(tmp_path / "two")]) == 0
    first, second = (shlex.split(settings["made_from"].strip("`")) for settings in made)
    assert first == ["celo", "race"]
    assert second == [
        *("celo", "race", "my best=celo", "--import", "json"),
        *("--tasks", "quadratic", "--steps", "77", "--seeds", "5", "--kernel", "xla"),
    ]
    assert made[1]["contestants"] == ["my best", "adam"]  # Adam always runs


def test_a_race_without_a_rival_makes_no_report(evaluated, tmp_path, undrawn, capsys):
    evaluated[1].append("celo on quadratic: no")
    assert main(["race", "--task", "quadratic", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "celo: failed: celo on quadratic: no\n"
    write_record(tmp_path / "records", synthetic.record("quadratic", "adam"))
    assert main(["race", "--task", "quadratic", "--out", str(tmp_path)]) == 1
    assert not (tmp_path / "report.html").exists()


def test_one_who_failed_does_not_cost_the_others_the_report(evaluated, tmp_path, undrawn, wide, capsys):
    for name in ("adam", "celo"):
        write_record(tmp_path / "records", synthetic.record("quadratic", name))
    evaluated[1].append("muon on quadratic: no")
    assert main(["race", "celo", "muon", "--task", "quadratic", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == "celo: failed: muon on quadratic: no\n"
    assert set(table(said.out)) == {"celo", "adam"}
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("command", ["race", "evaluate"])
def test_where_nothing_can_be_scored_the_records_are_not_lost(command, evaluated, tmp_path, undrawn, capsys):
    out = tmp_path / "records" if command == "race" else tmp_path
    for name in ("adam", "celo"):
        one = synthetic.record("quadratic", name)
        write_record(out, dataclasses.replace(one, train_loss=one.train_loss - 9))
    assert main([command, "adam", "celo", "--task", "quadratic", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no task can be compared on (quadratic: losses below 0 of adam, celo, " in error
    assert error.endswith(f"; the records are kept in {out}\n")
