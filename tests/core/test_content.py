from __future__ import annotations

import os

import pytest

from davatar.core.content import hash_path, hash_value
from davatar.core.errors import DataError


def test_a_folder_hash_sees_names_and_bytes_but_no_times(tmp_path):
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    before = hash_path(tmp_path)
    os.utime(tmp_path / "a.png", (0, 0))
    (tmp_path / ".a.png.part").write_bytes(b"half")
    assert hash_path(tmp_path) == before
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    renamed = hash_path(tmp_path)
    (tmp_path / "c.png").write_bytes(b"other")
    assert len({before, renamed, hash_path(tmp_path)}) == 3
    with pytest.raises(DataError, match="is missing"):
        hash_path(tmp_path / "none")


def test_a_value_hash_ignores_the_order_of_keys():
    assert hash_value({"a": 1, "b": [1, 2]}) == hash_value({"b": [1, 2], "a": 1}) != hash_value({"a": 1, "b": [2, 1]})
