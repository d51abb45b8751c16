"""Fetching against a real server on the loopback interface, with the faults that networks and servers have."""

import hashlib
import io
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from davatar.core.errors import ConfigError, DataError, Interrupted, MissingError, ResourceError, UsageError
from davatar.dataset import catalogue, download, unpack
from davatar.dataset.catalogue import Archive, load_catalogue
from davatar.dataset.fetch import fetch, plan

CONTENT = {"018/config.json": b"{}", "018/a/b.bin": bytes(range(256)) * 4000}


def zip_bytes(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Files from memory; `cut` ends bodies early, `busy` answers 503, `ranges` may be switched off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []  # bytes of the next bodies
        self.busy = 0
        self.ranges = True
        self.etag = True
        self.seen: list[tuple[str, str | None, int]] = []  # method, Range, status

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        server, data = self.server, self.server.files.get(self.path[1:])
        wanted = self.headers.get("Range")
        if server.busy:
            server.busy -= 1
            return self.head(503, 0, wanted)
        if data is None:
            return self.head(404, 0, wanted)
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"' if server.etag else None
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        if start and self.headers.get("If-Range", etag) != etag:
            start = 0
        extra = {"ETag": etag} if etag else {}
        if start >= len(data) > 0:
            return self.head(416, 0, wanted, {"Content-Range": f"bytes */{len(data)}"})
        if start:
            extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.head(206 if start else 200, len(data) - start, wanted, extra)
        if body:
            send = data[start:]
            if server.cut:
                send = send[: server.cut.pop(0)]
                self.close_connection = True
            self.wfile.write(send)

    def head(self, status, length, wanted, extra=None):
        self.server.seen.append((self.command, wanted, status))
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.files["data/nersemble/018.zip"] = zip_bytes(CONTENT)
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAVATAR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAVATAR_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("DAVATAR_CONFIG", str(tmp_path / "config" / "config.yaml"))
    return tmp_path


def raw(**changes) -> Archive:
    usual = {"participant": "18", "what": "nersemble", "path": "data/nersemble/018.zip", "folder": "018"}
    return Archive(**usual | changes)


def bring(server, archive=None, **options):
    return fetch(plan([archive or raw()], server.root, **options), pause=0)


def test_the_folder_appears_with_its_content(server, home):
    (folder,) = bring(server)
    assert folder == home / "data/nersemble/018"
    assert (folder / "a/b.bin").read_bytes() == CONTENT["018/a/b.bin"]
    assert not list(folder.parent.glob("**/*.part*"))
    bring(server)
    assert len(server.seen) == 1  # what is there is not fetched again


def test_broken_connections_are_resumed_with_ranges(server, home):
    server.cut, server.busy = [300_000, 200_000], 1
    bring(server)
    assert [entry[1:] for entry in server.seen] == [
        (None, 503),
        (None, 200),
        ("bytes=300000-", 206),
        ("bytes=500000-", 206),
    ]


@pytest.mark.parametrize("etag", [True, False])
def test_a_stopped_download_goes_on_in_the_next_run(server, home, monkeypatch, etag):
    server.etag = etag
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted, match="bytes that came are kept"):
        bring(server)
    monkeypatch.undo()
    monkeypatch.setenv("DAVATAR_DATA", str(home / "data"))
    kept = (home / "data/nersemble/.downloads/018/018.zip.part").stat().st_size
    assert 0 < kept < len(server.files["data/nersemble/018.zip"])
    bring(server)
    assert server.seen[-1] == ("GET", f"bytes={kept}-", 206)
    assert (home / "data/nersemble/018/a/b.bin").read_bytes() == CONTENT["018/a/b.bin"]


def stop_after(monkeypatch, chunks):
    """Ctrl-C in the middle of the body."""
    import signal

    real = download.httpx.Response.iter_raw

    def body(self):
        for count, chunk in enumerate(real(self), start=1):
            if count == chunks:
                signal.raise_signal(signal.SIGINT)
            yield chunk

    monkeypatch.setattr(download.httpx.Response, "iter_raw", body)


def half_loaded(server, home, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut = [300_000, 0]
    with pytest.raises(MissingError, match="cannot be reached"):
        bring(server)
    monkeypatch.undo()
    monkeypatch.setenv("DAVATAR_DATA", str(home / "data"))
    server.cut = []


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, home, monkeypatch):
    half_loaded(server, home, monkeypatch)
    server.files["data/nersemble/018.zip"] = zip_bytes(CONTENT | {"018/config.json": b'{"new": 1}'})
    bring(server)
    assert server.seen[-1] == ("GET", "bytes=300000-", 200)
    assert (home / "data/nersemble/018/config.json").read_bytes() == b'{"new": 1}'


def test_a_server_without_ranges_sends_all_again(server, home, monkeypatch):
    half_loaded(server, home, monkeypatch)
    server.ranges = False
    bring(server)
    assert (home / "data/nersemble/018/a/b.bin").read_bytes() == CONTENT["018/a/b.bin"]


def test_a_part_that_is_whole_or_too_long_is_settled_by_416(server, home, monkeypatch):
    whole = server.files["data/nersemble/018.zip"]
    for surplus in (b"", b"tail"):
        half_loaded(server, home, monkeypatch)
        part = home / "data/nersemble/.downloads/018/018.zip.part"
        part.write_bytes(whole + surplus)
        (folder,) = bring(server)
        assert ("GET", f"bytes={len(whole + surplus)}-", 416) in server.seen
        assert (folder / "config.json").read_bytes() == b"{}"
        folder.rename(home / f"moved{len(surplus)}")


def test_wrong_content_is_deleted_and_named(server, home):
    with pytest.raises(DataError, match="018.zip: has sha256 .* expected 00"):
        bring(server, raw(sha256="00"))
    with pytest.raises(DataError, match="expected 17"):
        bring(server, raw(size=17))
    digest = hashlib.sha256(server.files["data/nersemble/018.zip"]).hexdigest()
    bring(server, raw(sha256=digest.upper(), size=len(server.files["data/nersemble/018.zip"])))


def test_refusals_say_what_to_do(server, home):
    with pytest.raises(MissingError, match="nowhere.zip: the server answers 404.*--mirror"):
        bring(server, raw(path="nowhere.zip"))
    server.shutdown()
    server.server_close()
    with pytest.raises(MissingError, match="cannot be reached"):
        bring(server)


def test_a_damaged_zip_publishes_nothing(server, home):
    data = bytearray(server.files["data/nersemble/018.zip"])
    data[5000] ^= 255
    server.files["data/nersemble/018.zip"] = bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        bring(server)
    server.files["data/nersemble/018.zip"] = b"<html>not a zip</html>"
    with pytest.raises(DataError, match="is damaged"):
        bring(server)
    left = [p.name for p in (home / "data/nersemble").rglob("*") if p.is_file() and p.name != ".lock"]
    assert left == []


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../evil", "leaves the folder"),
        ("/etc/evil", "leaves the folder"),
        ("a/../../evil", "leaves the folder"),
        ("a\\..\\evil", "leaves the folder"),
        ("C:/evil", "leaves the folder"),
        (link("a/link"), "is a link"),
        ("CONFIG.json", "is there twice"),
    ],
)
def test_zips_that_want_out_are_refused(tmp_path, name, reason):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("config.json", "{}")
        info = zipfile.ZipInfo("placeholder") if isinstance(name, str) else name
        if isinstance(name, str):
            info.filename = name  # the constructor would mend backslashes
        archive.writestr(info, "x")
    with pytest.raises(DataError, match=reason):
        unpack.unpack(tmp_path / "x.zip", tmp_path / "home" / "target")
    assert {p.name for p in tmp_path.rglob("*")} <= {"x.zip", "home"}


def test_bombs_and_full_disks_are_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(40_000_000))
    with pytest.raises(DataError, match="would become 40000000"):
        unpack.unpack(tmp_path / "x.zip", tmp_path / "target")
    (tmp_path / "y.zip").write_bytes(zip_bytes(CONTENT))
    monkeypatch.setattr(unpack.shutil, "disk_usage", lambda path: unpack.shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(ResourceError, match="0.0 GB are free"):
        unpack.unpack(tmp_path / "y.zip", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_too_little_disk_is_said_before_the_first_byte(server, home, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: download.shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(ResourceError, match="DAVATAR_DATA"):
        bring(server)
    assert not (home / "data/nersemble/.downloads/018/018.zip.part").exists()


def test_mirrors_and_zips_in_place_need_no_network(server, home):
    mirror = home / "mirror"
    (mirror / "data/nersemble").mkdir(parents=True)
    (mirror / "data/nersemble/018.zip").write_bytes(zip_bytes(CONTENT))
    (step,) = plan([raw()], "http://127.0.0.1:9/", mirror=str(mirror))
    assert step.state == "local" and fetch([step]) == [home / "data/nersemble/018"]
    with pytest.raises(MissingError, match="not on this machine.*037.zip as .*nersemble.037.zip"):
        plan([raw(participant="37", path="data/nersemble/037.zip", folder="037")], "http://127.0.0.1:9/", offline=True)
    flat = raw(participant="37", path="data/nersemble/037.zip", folder="037")
    (home / "data/nersemble/037.zip").write_bytes(zip_bytes({"config.json": b"[]"}))
    fetch(plan([flat], "http://127.0.0.1:9/", offline=True))
    assert (home / "data/nersemble/037/config.json").read_bytes() == b"[]"
    bring(server, raw(folder="copy"), mirror=server.root)
    assert server.seen[0][0] == "GET"


def test_sizes_are_asked_for_without_loading(server, home):
    (step,) = plan([raw()], server.root, sizes=True)
    assert step.size == len(server.files["data/nersemble/018.zip"]) and server.seen[0][0] == "HEAD"


def test_published_catalogue(home):
    known = load_catalogue()
    assert known.participants == ["18", "37", "55", "124", "145", "210", "251", "264"]
    (model, data_set) = known.select(["055"], ["model", "rendering"])
    assert model.url(known.root) == "https://kaldir.vc.in.tum.de/diffusion_avatars/models/DA-3-ID-55.zip"
    assert model.target == home / "models/diffusion-avatars/DA-3-ID-55"
    assert data_set.target == home / "data/rendering_data/v1.3-ID-55-nphm"
    with pytest.raises(UsageError, match="did you mean 145"):
        known.select(["146"], ["model"])


def test_own_entries_and_their_mistakes(home):
    file = catalogue.catalogue_file()
    file.parent.mkdir(parents=True)
    file.write_text(
        "root: http://mirror.example/x\narchives:\n"
        "- {participant: anna, what: rendering, path: anna.zip, folder: v2.1-anna}\n"
        "- {participant: 18, what: model, path: 'http://other/m.zip', folder: mine}\n"
    )
    known = load_catalogue()
    (anna,) = known.select(["anna"], catalogue.WHAT)
    assert anna.url(known.root) == "http://mirror.example/x/anna.zip"
    (model,) = known.select(["18"], ["model"])
    assert model.url(known.root) == "http://other/m.zip" and model.folder == "mine"
    for text, reason in (
        ("roots: x", "unknown key 'roots'"),
        ("archives: [{participant: a, what: model, path: x}]", "folder"),
        ("archives: [{participant: a, what: movie, path: x, folder: y}]", "movie"),
        ("archives: [{participant: a, what: model, path: x, folder: ../y}]", "plain name"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load_catalogue()
