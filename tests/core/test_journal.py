from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from davatar.core.errors import ResourceError
from davatar.core.journal import Journal


def test_items_are_done_for_their_key_and_content_only(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", content="settings-1")
    journal.mark("frame 3", psnr=31.5)
    journal.mark("frame 4", content="image-a")
    again = Journal(journal.path, content="settings-1")
    assert again.done("frame 3") and again.figures("frame 3") == {"psnr": 31.5}
    assert again.done("frame 4", "image-a") and not again.done("frame 4", "image-b") and not again.done("frame 4")
    assert len(again) == 2
    other = Journal(journal.path, content="settings-2")
    assert not other.done("frame 3") and len(other) == 0


def test_the_last_mark_of_an_item_counts(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.mark("a", value=1)
    journal.mark("a", value=2)
    assert Journal(journal.path).figures("a") == {"value": 2}


@given(cut=st.integers(0, 200))
def test_a_cut_journal_loses_at_most_the_items_behind_the_cut(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for key in "abc":
        journal.mark(key, value=key)
    data = path.read_bytes()
    path.write_bytes(data[: max(len(data) - cut, 0)])
    resumed = Journal(path)
    kept = [key for key in "abc" if resumed.done(key)]
    assert kept == list("abc")[: len(kept)]
    for key in "abc":
        if not resumed.done(key):
            resumed.mark(key, value=key)
    final = Journal(path)
    assert [final.figures(key)["value"] for key in "abc"] == list("abc")


def test_a_full_disk_leaves_the_item_undone(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j.jsonl")
    journal.mark("a")

    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ResourceError, match="j.jsonl: the disk is full"):
        journal.mark("b")
    assert journal.done("a") and not journal.done("b")
