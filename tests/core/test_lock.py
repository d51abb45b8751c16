from __future__ import annotations

import subprocess
import sys

import pytest

from davatar.core.errors import UsageError
from davatar.core.lock import exclusive

HOLDER = """
import sys
from davatar.core.lock import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with (
        pytest.raises(UsageError, match="another davatar process is writing there") as error,
        exclusive(tmp_path / "out"),
    ):
        pass
    assert str(tmp_path / "out") in str(error.value)
    process.kill()
    process.communicate()
    with exclusive(tmp_path / "out") as folder:
        assert folder.is_dir()
