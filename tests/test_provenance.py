import subprocess
from pathlib import Path

from celo import _provenance as provenance


def git(folder, *words):
    settings = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    command = ("git", "-C", str(folder), *settings, *words)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_copy_inside_another_repository_has_none_of_its_commits(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    file = tmp_path / "provenance.py"
    file.write_bytes(Path(provenance.__file__).read_bytes())
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.commit() is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    assert provenance.commit() == git(tmp_path, "rev-parse", "HEAD")
    file.write_text("changed")
    assert provenance.commit() == git(tmp_path, "rev-parse", "HEAD") + " + changes"


def test_outside_of_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.commit() is None


def test_the_environment_names_what_a_task_is_made_of():
    assert {"celo", "jax", "optax", "numpy", "python", "machine", "device"} <= set(provenance.environment())
