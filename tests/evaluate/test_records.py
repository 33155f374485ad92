"""Records on disk: archives as folders and as single files, and what damage leads to."""

import contextlib
import dataclasses
import zipfile

import numpy as np
import pytest
import synthetic

from celo import cli
from celo._errors import CeloError
from celo.evaluate._records import (
    EqualTime,
    bundled_archive,
    load_records,
    pack_records,
    path_of,
    read_record,
    with_bundled,
    write_record,
)


def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path, whole):
    path = tmp_path / "quadratic" / "adam.npz"
    path.parent.mkdir()
    path.write_bytes((whole / "quadratic" / "adam.npz").read_bytes()[:200])
    with pytest.raises(CeloError, match=r"adam.npz is damaged .* run it again"):
        read_record(path)


def test_a_record_with_a_flipped_byte_is_whole_or_an_error(tmp_path, whole):
    data = (whole / "quadratic" / "adam.npz").read_bytes()
    path, damaged = tmp_path / "adam.npz", 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with contextlib.suppress(CeloError):
            read_record(path)
            continue
        damaged += 1
    assert damaged > 100


def test_a_packed_archive_is_the_same_files(tmp_path):
    folder = synthetic.write(tmp_path / "folder")
    assert pack_records(folder, tmp_path / "one.zip") == len(synthetic.records())
    with zipfile.ZipFile(tmp_path / "one.zip") as packed:
        for name in packed.namelist():
            assert packed.read(name) == (folder / name).read_bytes()
    for a, b in zip(load_records(folder), load_records(tmp_path / "one.zip"), strict=True):
        np.testing.assert_array_equal(a.train_loss, b.train_loss)
        assert (a.settings, a.provenance) == (b.settings, b.provenance)
    pack_records(folder, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "one.zip").read_bytes()


def test_of_several_archives_the_first_to_have_a_record_counts(tmp_path):
    for folder, seeds in (("a", 2), ("b", 3)):
        write_record(tmp_path / folder, synthetic.record("wine_mlp", "adam", seeds=seeds))
    write_record(tmp_path / "b", synthetic.record("wine_mlp", "celo"))
    found = load_records(tmp_path / "a", tmp_path / "b")
    assert [(record.contestant, len(record.seeds)) for record in found] == [("adam", 2), ("celo", 3)]


def test_archives_that_are_none(tmp_path):
    with pytest.raises(CeloError, match="no such archive; make one with `celo evaluate`"):
        load_records(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(CeloError, match=r"text\.zip is no archive, or damaged"):
        load_records(tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CeloError, match="no records to pack"):
        pack_records(tmp_path / "empty", tmp_path / "empty.zip")


def test_a_damaged_archive_is_an_error_or_gives_the_same_files(tmp_path):
    write_record(tmp_path / "a", synthetic.record("quadratic", "adam"))
    pack_records(tmp_path / "a", tmp_path / "whole.zip")
    whole, random = (tmp_path / "whole.zip").read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.zip"
    for _ in range(200):
        wrong = bytearray(whole)
        for place in random.integers(0, len(whole), 2):
            wrong[place] = random.integers(0, 256)
        damaged.write_bytes(wrong)
        try:
            found = load_records(damaged)
        except CeloError:
            continue
        for record in found:
            np.testing.assert_array_equal(record.train_loss, load_records(tmp_path / "a")[0].train_loss)


def test_a_task_of_your_own_has_a_file_name(tmp_path):
    assert path_of(tmp_path, "module:task", "adam") == tmp_path / "module+task" / "adam.npz"


def test_settings_survive(tmp_path):
    record = synthetic.record("wine_mlp", "celo")
    again = read_record(write_record(tmp_path, record))
    assert (again.settings, again.provenance) == (record.settings, record.provenance)
    assert again.facts()["contestant"] == {"weights_sha256": "0123456789abcdef" * 4}


def test_runs_in_the_time_of_adams_are_kept_and_older_records_have_none(tmp_path):
    record = synthetic.record("wine_mlp", "celo")
    again = read_record(write_record(tmp_path, record))
    for name in EqualTime._fields:
        np.testing.assert_array_equal(
            getattr(again.equal_time, name), getattr(record.equal_time, name), strict=True
        )
    older = dataclasses.replace(record, equal_time=None)
    again = read_record(write_record(tmp_path, older))
    assert again.equal_time is again.in_adams_time is None


def test_adams_runs_are_those_in_its_own_time():
    adam = load_records(bundled_archive("laptop"))[0]
    assert adam.equal_time is None
    runs = adam.in_adams_time
    assert (runs.steps[-1], runs.train_loss is adam.train_loss) == (2000, True)


def test_the_package_brings_adam_on_the_laptop_suite():
    from celo.evaluate._run.suites import SUITES

    records = load_records(bundled_archive("laptop"))
    assert {record.contestant for record in records} == {"adam"}
    assert {record.settings.task for record in records} == set(SUITES["laptop"])


def test_only_comparable_records_of_the_package_are_added():
    adam = load_records(bundled_archive("laptop"))[0]
    alike = synthetic.record(adam.task, "muon")
    assert [record.contestant for record in with_bundled([alike], "laptop")] == ["muon", "adam"]
    shorter = synthetic.record(adam.task, "muon", num_steps=200)
    assert [record.contestant for record in with_bundled([shorter], "laptop")] == ["muon"]
    assert with_bundled([alike], "no_such_suite") == [alike]


def test_the_report_of_a_packed_archive_is_that_of_its_folder(tmp_path, undrawn):
    pytest.importorskip("altair", reason="needs celo[plots]")
    folder = synthetic.write(tmp_path / "folder")
    pack_records(folder, tmp_path / "one.zip")
    for archive in (folder, tmp_path / "one.zip"):
        words = ["report", archive, "--tasks", "wine_mlp", "--contestants", "celo", "--out"]
        assert cli.main([str(word) for word in (*words, tmp_path / archive.stem / "report")]) == 0
    scores = [(tmp_path / name / "report" / "scores.csv").read_text() for name in ("folder", "one")]
    assert scores[0] == scores[1]
    assert "celo,wine_mlp,0" in scores[0]
