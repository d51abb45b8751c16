"""The command line as a user meets it: exit codes, streams, options, plugins."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import typer

from davatar import __version__
from davatar.cli import main as cli_main
from davatar.core import errors
from davatar.core.interrupt import interruptible

REPORT = " (run again with --debug to see where, and report it)"


@pytest.fixture
def failing(monkeypatch):
    """`failing(exception)` makes `davatar paths` raise it."""

    def fail_with(error: BaseException) -> None:
        def fail():
            raise error

        monkeypatch.setattr("davatar.core.paths.places", fail)

    return fail_with


def test_version_and_help(cli):
    assert cli("--version") == type(cli("--version"))(0, f"davatar {__version__}\n", "")
    outcome = cli("--help")
    assert outcome.code == 0 and outcome.err == ""
    for command in cli_main.CHAIN:
        assert command in outcome.out


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.DataError("is cut", file="a/12.png", mend="copy it again"), 3, "a/12.png: is cut (copy it again)"),
        (errors.ConfigError("no setting is called 'x'"), 2, "no setting is called 'x'"),
        (errors.MissingError("no weights"), 4, "no weights"),
        (errors.VerificationError("off by 2"), 5, "off by 2"),
        (errors.ResourceError("the disk is full"), 6, "the disk is full"),
        (OSError(errno.ENOSPC, "No space left"), 6, "the disk is full (free space and run the command again)"),
        (MemoryError(), 6, "out of memory (close other programs, or choose a smaller preset or size)"),
        (errors.Interrupted("stopped"), 130, "stopped"),
        (KeyboardInterrupt(), 130, "stopped; what was finished is saved (run the same command again to resume)"),
        (ValueError("[red]"), 1, f"internal error: ValueError: [red]{REPORT}"),
        (OSError(errno.EACCES, "no", "/x"), 1, f"internal error: PermissionError: [Errno 13] no: '/x'{REPORT}"),
    ],
)
def test_every_exception_becomes_one_line_and_its_exit_code(error, code, text, cli, failing):
    failing(error)
    outcome = cli("paths")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", f"davatar: {text}\n")


def test_debug_shows_the_traceback(cli, failing):
    failing(ValueError("odd"))
    outcome = cli("paths", "--debug")
    assert outcome.code == 1 and "Traceback" in outcome.err and "internal error: ValueError: odd\n" in outcome.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["pahts"], "davatar: No such command 'pahts'. Did you mean 'paths'? (see `davatar --help`)\n"),
        (["paths", "--jason"], "davatar: No such option: --jason (see `davatar paths --help`)\n"),
        (["runs", "show"], "davatar: Missing argument 'run' (see `davatar runs show --help`)\n"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words, text, cli):
    assert cli(*words).code == 2
    assert cli(*words).err == text


def test_a_group_without_a_command_shows_its_help_once(cli):
    outcome = cli("runs")
    assert outcome.code == 2 and outcome.err.count("Usage:") == 1 and outcome.out == ""


def test_global_flags_stand_anywhere_and_json_is_one_document(cli):
    documents = [json.loads(cli(*words).out) for words in (["--json", "paths"], ["paths", "--json"])]
    assert documents[0] == documents[1]
    assert documents[0]["models"]["origin"] == "DAVATAR_MODELS"
    assert cli_main.global_first(["runs", "-v", "--", "--json"]) == ["-v", "runs", "--", "--json"]


def test_a_folder_flag_wins_over_the_environment(cli, tmp_path):
    document = json.loads(cli("--models-dir", tmp_path, "paths", "--json").out)
    assert document["models"] == {"path": str(tmp_path), "origin": "command line", "exists": True}
    assert json.loads(cli("paths", "--json").out)["models"]["origin"] == "DAVATAR_MODELS"


def test_output_into_a_pipe_is_plain_and_unfolded(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("DAVATAR_DATA", str(tmp_path / ("long" * 50)))
    out = cli("paths").out
    assert "long" * 50 in out and "\x1b" not in out


def test_no_color_is_honoured_on_a_terminal(monkeypatch):
    """A pseudo-terminal on stderr: with colours by default, without under NO_COLOR."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on this system")

    def said(**extra: str) -> bytes:
        own, theirs = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm", **extra}
        subprocess.run([sys.executable, "-m", "davatar", "pahts"], stderr=theirs, env=environment, check=False)
        os.close(theirs)
        text = os.read(own, 10000)
        os.close(own)
        return text

    assert b"\x1b[" in said() and b"No such command" in said()
    assert b"\x1b[" not in said(NO_COLOR="1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_command_ends_it_with_130(number, cli, monkeypatch, request):
    def work():
        os.kill(os.getpid(), number)
        while True:  # the signal is delivered between two byte codes of this loop
            pass

    if number == signal.SIGINT:  # a shell starts its background jobs with this signal ignored
        previous = signal.signal(number, signal.default_int_handler)
        request.addfinalizer(lambda: signal.signal(number, previous))
    monkeypatch.setattr("davatar.core.paths.places", work)
    outcome = cli("paths")
    assert outcome.code == 130
    assert outcome.err == "davatar: stopped; what was finished is saved (run the same command again to resume)\n"


def test_a_signal_during_an_interruptible_loop_finishes_the_item(cli, monkeypatch):
    finished = []

    def work():
        with interruptible() as stop:
            for item in range(10):
                if item == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                finished.append(item)
                stop.check()

    monkeypatch.setattr("davatar.core.paths.places", work)
    assert cli("paths").code == 130
    assert finished == [0, 1, 2]


@pytest.fixture
def command_plugin(tmp_path, monkeypatch):
    """A distribution that brings the command `toy`; importing it is recorded in `toy_command.imported`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    metadata = tmp_path / "davatar_toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: davatar-toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[davatar.commands]\ntoy = toy_command:app\n")
    (tmp_path / "toy_command.py").write_text(
        "import typer\napp = typer.Typer()\n\n@app.command()\ndef greet(name: str):\n    print(f'hello {name}')\n"
    )
    monkeypatch.delitem(sys.modules, "toy_command", raising=False)


def test_a_command_plugin_is_mounted_and_imported_only_when_called(cli, command_plugin):
    shown = cli("--help")
    assert "toy" in shown.out and "davatar-toy 1.0" in shown.out
    assert "toy_command" not in sys.modules
    assert cli("toy", "anna").out == "hello anna\n"


def test_a_broken_command_plugin_breaks_only_itself(cli, command_plugin, tmp_path):
    (tmp_path / "toy_command.py").write_text("import no_such_package\n")
    assert cli("--help").code == 0 and cli("paths").code == 0
    outcome = cli("toy")
    assert outcome.code == 4 and "plugin 'toy' of davatar-toy 1.0 does not import" in outcome.err
    (tmp_path / "toy_command.py").write_text("app = 3\n")
    outcome = cli("toy")
    assert outcome.code == 2 and "is a int, expected a typer.Typer" in outcome.err


def test_completion_knows_runs(own_places):
    from davatar.cli.runs import _names
    from davatar.core.runs import create_run

    create_run(name="anna")
    assert _names() == ["DA-1-anna"]
    assert isinstance(cli_main.app, typer.Typer)
