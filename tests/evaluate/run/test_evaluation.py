"""An evaluation as one call and one command."""

import pytest

from celo import cli, weights
from celo._errors import CeloError
from celo._files import held
from celo.evaluate._records import load_records
from celo.evaluate._run.evaluation import evaluate
from celo.evaluate._settings import Protocol
from celo.optimizers import OPTIMIZERS


def test_bundled_records_of_other_settings_are_left_aside(tmp_path, capsys):
    """Runs of 30 steps are not put beside the package's of 2,000."""
    words = ["--task", "quadratic", "--steps", "30", "--kernel", "xla", "--workers", "1", "--seeds", "1"]
    assert cli.main(["evaluate", "celo", *words, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "records:" in shown
    assert "loss ratio" not in shown
    assert "add adam to the command, with --resume" in " ".join(shown.split())


def test_an_archive_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(CeloError, match="is a file: out must be a folder"):
        evaluate(["adam"], out=tmp_path / "out", tasks=["quadratic"])


def test_an_archive_that_another_process_adds_to(tmp_path):
    with held(tmp_path, ""), pytest.raises(CeloError, match="another process is at work in it; wait for it"):
        evaluate(["adam"], out=tmp_path, tasks=["quadratic"], resume=True)


def test_the_command_refuses_to_mix_with_an_older_archive(tmp_path, whole, capsys):
    assert cli.main(["evaluate", "adam", "--task", "quadratic", "--out", str(whole)]) == 2
    assert "--resume" in capsys.readouterr().err
    for words in (["--suite", "lap"], ["--suite", "probe", "--task", "quadratic"], ["--task", "quad"]):
        assert cli.main(["evaluate", "adam", "--out", str(tmp_path / "new"), *words]) == 2
    assert cli.main(["evaluate", "adam", "--out", str(tmp_path / "new"), "--steps", "0"]) == 2


TOY = """
from celo.optimizers import OPTIMIZERS, Celo, Entry, celo

OPTIMIZERS["toy_celo"] = Entry(Celo, celo, ())
"""


@pytest.mark.slow
def test_weights_of_an_architecture_from_outside_run_in_worker_processes(tmp_path, monkeypatch, theta):
    (tmp_path / "toy_registered.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    weights.save(tmp_path / "toy.safetensors", theta, metadata={"architecture": "toy_celo"})
    settings = {"tasks": ["quadratic"], "num_steps": 10, "workers": 1, "kernel": "xla"}
    settings["protocol"] = Protocol(seeds=(0,))
    try:
        failures = evaluate(
            [str(tmp_path / "toy.safetensors")], out=tmp_path / "out", imports=["toy_registered"], **settings
        )
    finally:
        OPTIMIZERS.pop("toy_celo", None)
    assert failures == []
    assert [record.contestant for record in load_records(tmp_path / "out")] == ["toy"]


@pytest.mark.slow
def test_progress_is_told(tmp_path):
    told = []
    evaluate(
        ["celo"],
        out=tmp_path,
        tasks=["quadratic"],
        num_steps=10,
        num_evaluations=5,
        protocol=Protocol(seeds=(0,)),
        workers=1,
        kernel="xla",
        progress=lambda *words: told.append(words),
    )
    assert told[0] == ("evaluating", 0, 1, "celo on quadratic")
    assert told[-1] == ("evaluating", 1, 1, "")
    assert load_records(tmp_path)[0].steps.tolist() == [0, 2, 4, 6, 8, 10]


def test_what_cannot_run_is_refused_by_its_argument(tmp_path):
    with pytest.raises(CeloError, match="num_evaluations must be at least 1, got 0"):
        evaluate(["celo"], out=tmp_path / "a", tasks=["quadratic"], num_evaluations=0)
    with pytest.raises(CeloError, match="unknown kernel 'cuda'"):
        evaluate(["celo"], out=tmp_path / "a", kernel="cuda")
    assert not (tmp_path / "a").exists()
