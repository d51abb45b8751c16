from __future__ import annotations

import pytest
import torch

from davatar.core.errors import DataError
from davatar.core.runs import Run
from davatar.core.training_state import STATE, latest_state, save_state
from davatar.headmodel.published_checkpoint import read_archive


@pytest.mark.parametrize("left", [0, 100, 3000, -10])
def test_a_truncated_archive_is_said_to_be_that_and_nothing_more(tmp_path, left):
    run = Run(tmp_path)
    save_state(run, 1, {"step": 1, "weights": torch.zeros(1000)})
    path = run.latest_checkpoint()[1] / STATE
    path.write_bytes(path.read_bytes()[:left])
    for read in (lambda: read_archive(path), lambda: latest_state(run, {}, ["step"])):
        with pytest.raises(DataError) as refused:
            read()
        assert refused.value.message.endswith(": it is truncated or damaged")


def test_an_archive_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pt").touch()
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(DataError, match="Permission denied"):
        read_archive(tmp_path / "a.pt")
