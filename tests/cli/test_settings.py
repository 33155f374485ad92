"""What commands share: options made from a dataclass, modules of one's own, words for arguments."""

import argparse
import dataclasses
import os
import sys

import jax
import pytest

from celo._errors import CeloError
from celo._provenance import cores
from celo.cli._settings import (
    add_fields,
    add_import,
    as_options,
    given,
    import_own,
    one_device_per_core,
    option,
    speaking_of_options,
)


def setting(default, text):
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = setting(100, "steps to take")
    share: float = setting(0.5, "of 100%, a part")
    level: str = setting("none", "how much")
    tasks: tuple[str, ...] = setting(("a", "b"), "what to do")
    others: tuple[str, ...] = setting((), "what else to do")
    fast: bool = setting(False, "whether to hurry")


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_fields(parser, Config, {"tasks": "--task"})
    add_import(parser)
    return parser


def test_only_what_is_given_is_given(parser):
    assert given(parser.parse_args([]), Config) == {}
    words = ["--num-steps", "7", "--share", "1e-3", "--level", "all"]
    assert given(parser.parse_args(words), Config) == {"num_steps": 7, "share": 0.001, "level": "all"}
    assert given(parser.parse_args(["--num-steps", "0"]), Config) == {"num_steps": 0}


def test_a_tuple_takes_several_values_under_either_name(parser):
    for name in ("--tasks", "--task"):
        assert given(parser.parse_args([name, "one", "two"]), Config) == {"tasks": ("one", "two")}


def test_a_switch_can_be_turned_on_and_off(parser):
    assert given(parser.parse_args(["--fast"]), Config) == {"fast": True}
    assert given(parser.parse_args(["--no-fast"]), Config) == {"fast": False}


def test_a_field_gives_its_option_a_type_a_help_text_and_its_default(parser):
    text = " ".join(parser.format_help().split())
    for words in (
        "--num-steps N steps to take (default: 100)",
        "of 100%, a part (default: 0.5)",
        "what to do (default: a b)",
    ):
        assert words in text
    assert "what else to do (default" not in text  # there is nothing to say
    with pytest.raises(SystemExit):
        parser.parse_args(["--num-steps", "many"])


def test_arguments_are_called_by_their_options_as_whole_words():
    assert option("rule_learning_rate") == "--rule-learning-rate"
    text = "num_steps must be 1, not my_num_steps; seed (seeds)"
    assert as_options(text, "num_steps", "seed") == "--num-steps must be 1, not my_num_steps; --seed (seeds)"


def test_errors_of_the_library_speak_of_options_and_others_pass():
    with (
        pytest.raises(CeloError, match=r"^--num-steps must be positive, got 0; level is fine$"),
        speaking_of_options("num_steps"),
    ):
        raise CeloError("num_steps must be positive, got 0; level is fine")
    with pytest.raises(KeyError, match="num_steps"), speaking_of_options("num_steps"):
        raise KeyError("num_steps")


def test_modules_of_ones_own_are_found_in_the_current_folder(tmp_path, monkeypatch, parser):
    (tmp_path / "registers_something.py").write_text("import sys\nsys.registered = True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "registered", False, raising=False)
    words = ["--import", "registers_something", "--import", "json"]
    options = parser.parse_args(words)
    assert options.imports == ["registers_something", "json"]
    import_own(options.imports)
    assert sys.registered
    import_own([])
    assert sys.path.count(os.getcwd()) == 1
    with pytest.raises(CeloError, match="there is no module 'no_such_module'"):
        import_own(["no_such_module"])


def test_nothing_to_import_is_an_empty_list(parser):
    assert parser.parse_args([]).imports == []


def test_jax_gets_a_device_for_each_core_unless_the_user_has_said_how_many(monkeypatch):
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *words: updates.append(words))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    one_device_per_core()
    assert updates == []
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES")
    monkeypatch.setattr("celo.cli._settings.cores", lambda: cores() + 3)
    one_device_per_core()
    assert updates == [("jax_num_cpu_devices", cores() + 3)]


def test_where_jax_has_computed_its_devices_stay_as_they_are(monkeypatch, caplog):
    count = jax.device_count()
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setattr("celo.cli._settings.cores", lambda: cores() + 3)
    with caplog.at_level("INFO", logger="celo"):
        one_device_per_core()
    assert "JAX has computed already" in caplog.text
    assert jax.device_count() == count


def test_a_current_folder_that_is_gone_is_named(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CeloError, match="the current folder is gone"):
        import_own(["json"])
