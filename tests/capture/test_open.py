from __future__ import annotations

import pytest

from davatar.capture.open import open_capture
from davatar.core.errors import DataError, MissingError


class Listener:
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def test_the_readers_come_from_the_plugin_registry(rgbd, edit):
    edit(rgbd / "meta.json", fps=None)
    listener = Listener()
    assert open_capture(rgbd, listener).provenance["layout"] == "rgbd-folder"
    assert listener.warnings == ["anna: meta.json has no fps: 30 assumed"]


def test_a_reader_from_elsewhere_is_asked_too(tmp_path, monkeypatch):
    from davatar.core import plugins

    (tmp_path / "x.raw").write_bytes(b"1")
    asked = []

    class Foreign:
        provenance = {}

    def load(group, name):
        asked.append(name)
        return lambda path: Foreign() if name == "zeta" else None

    monkeypatch.setattr(plugins, "names", lambda group: ["alpha", "zeta"])
    monkeypatch.setattr(plugins, "load", load)
    assert isinstance(open_capture(tmp_path), Foreign) and asked == ["alpha", "zeta"]


def test_what_is_no_recording_is_an_error_with_a_mend(tmp_path):
    with pytest.raises(MissingError, match="no such recording") as caught:
        open_capture(tmp_path / "absent")
    assert caught.value.file == str(tmp_path / "absent") and caught.value.mend
    with pytest.raises(DataError, match="the folder is empty"):
        open_capture(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"known layout \(.*dphm-kinect.*rgbd-folder"):
        open_capture(tmp_path)


def test_tracking_a_recording_that_is_not_there_exits_as_for_anything_missing(cli, tmp_path):
    told = cli("track", tmp_path / "absent")
    assert told.code == 4 and "absent: no such recording (give the folder" in told.err
