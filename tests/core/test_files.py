from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from davatar.core import files
from davatar.core.errors import DataError, ResourceError, UsageError


@pytest.fixture
def full_disk(monkeypatch):
    """fsync, the moment at which a full disk shows, fails."""

    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


def hidden(folder):
    return [path for path in folder.rglob(".*")]


def test_a_full_disk_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(ResourceError, match="the disk is full") as error:
        files.write_json(path, {"new": 1})
    assert error.value.exit_code == 6 and str(path) in str(error.value)
    assert path.read_text() == "old" and hidden(tmp_path) == []


def test_a_full_disk_keeps_the_old_folder(tmp_path, full_disk):
    folder = tmp_path / "step-000100"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(ResourceError), files.atomic_folder(folder) as temporary:
        (temporary / "weights").write_text("new")
    assert (folder / "weights").read_text() == "old" and hidden(tmp_path) == []


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "frame.png"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and hidden(tmp_path) == []


def test_atomic_folder_replaces_the_whole_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    for names in (["x", "y"], ["z"]):
        with files.atomic_folder(folder) as temporary:
            for name in names:
                (temporary / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["z"]


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path):
    code = (
        "import os, sys; from davatar.core import files\n"
        "with files.atomic_path(sys.argv[1]) as t:\n    t.write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sub" / "x.png")], check=False)
    assert len(hidden(tmp_path)) == 1
    (tmp_path / ".hidden.part.txt").write_text("the user's own")
    with files.atomic_path(tmp_path / "mine.png") as temporary:
        files.remove_leftovers(tmp_path)
        assert sorted(hidden(tmp_path)) == sorted([temporary, tmp_path / ".hidden.part.txt"])


def test_json_that_is_missing_or_broken_is_named(tmp_path):
    path = tmp_path / "meta.json"
    with pytest.raises(DataError, match="meta.json: is missing"):
        files.read_json(path)
    for content in (b'{"fps": ', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="meta.json: is not valid JSON"):
            files.read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"fps": 30}')  # some editors put a mark in front
    assert files.read_json(path) == {"fps": 30}


def test_an_output_of_the_wrong_kind_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for good in (tmp_path / "new", tmp_path / "new" / "deeper", tmp_path):
        files.check_output_folder(good)
    for good in (tmp_path / "file", tmp_path / "new" / "x.json"):
        files.check_output_file(good)
    with pytest.raises(UsageError, match=f"{tmp_path}: is a folder"):
        files.check_output_file(tmp_path)
    for bad in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        with pytest.raises(UsageError, match=f"{tmp_path}/file: is a file"):
            files.check_output_folder(bad)


@given(cut=st.integers(0, 40))
def test_lines_survive_a_cut_anywhere(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    for value in range(3):
        files.append_line(path, f'{{"step": {value}}}')
    data = path.read_bytes()
    path.write_bytes(data[: max(len(data) - cut, 0)])
    whole = files.read_lines(path)
    files.append_line(path, '{"step": 9}')
    assert whole == [{"step": value} for value in range(len(whole))]
    assert files.read_lines(path) == [*whole, {"step": 9}]
