"""`davatar`: mounts every command group, and the plugins of `davatar.commands` without importing them.

Global options stand anywhere on the line. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from davatar import __version__
from davatar.cli import avatar as avatar_group
from davatar.cli import bench as bench_command
from davatar.cli import console
from davatar.cli import data as data_group
from davatar.cli import demo as demo_command
from davatar.cli import doctor as doctor_command
from davatar.cli import eval as eval_command
from davatar.cli import paths as paths_command
from davatar.cli import plugins as plugins_group
from davatar.cli import prior as prior_group
from davatar.cli import render as render_command
from davatar.cli import runs as runs_group
from davatar.cli import track as track_command
from davatar.cli import verify as verify_command
from davatar.core import paths, plugins
from davatar.core.errors import Interrupted, UsageError
from davatar.core.interrupt import RESUME

# Commands in the order in which a newcomer meets them.
CHAIN = [
    "demo",
    "track",
    "avatar",
    "render",
    "eval",
    "data",
    "prior",
    "runs",
    "plugins",
    "paths",
    "verify",
    "bench",
    "doctor",
]
ANYWHERE = ("--quiet", "-q", "--json", "--debug", "--verbose", "-v", "-vv")


class PluginCommand(TyperCommand):
    """Stands in for a plugin's command in help and completion; the plugin is imported when it is called."""

    def __init__(self, plugin: plugins.Plugin):
        super().__init__(plugin.name, callback=lambda: None, short_help=f"Plugin of {plugin.distribution}.")
        self.plugin = plugin

    def loaded(self) -> Any:
        app = plugins.load(self.plugin.group, self.plugin.name)
        if not isinstance(app, typer.Typer):
            found = f"command {self.name!r} of {self.plugin.distribution} is a {type(app).__name__}"
            raise UsageError(f"{found}, expected a typer.Typer", mend="report it to its author")
        command = typer.main.get_command(app)
        command.name = self.name
        return command


class Commands(TyperGroup):
    """Built-in commands and plugins, with every error translated."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = sorted(super().list_commands(ctx), key=CHAIN.index)
        return own + [name for name in plugins.names("davatar.commands") if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        return next((PluginCommand(p) for p in plugins.listed("davatar.commands") if p.name == cmd_name), None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.loaded() if isinstance(command, PluginCommand) else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("stopped; what was finished is saved", mend=RESUME) from error

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:
        words = global_first(sys.argv[1:] if args is None else args)
        console.configure(debug="--debug" in words)
        extra.setdefault("prog_name", "davatar")
        call = super().main
        with terminable():
            code = console.run_command(lambda: call(args=words, standalone_mode=False, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


def global_first(args: Sequence[str]) -> list[str]:
    """Move the global flags in front of the command; what stands behind `--` is left alone."""
    end = list(args).index("--") if "--" in args else len(args)
    own = [word for word in args[:end] if word in ANYWHERE]
    return own + [word for word in args[:end] if word not in ANYWHERE] + list(args[end:])


class terminable:
    """SIGTERM unwinds like Ctrl-C, so that temporary files go and the exit code is 130."""

    def __enter__(self) -> None:
        self.previous = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self.stop)

    def __exit__(self, *error: Any) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)

    @staticmethod
    def stop(number: int, frame: Any) -> None:
        raise Interrupted("stopped; what was finished is saved", mend=RESUME)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help costs as long to import as the rest of the command line
    help="From a depth camera, or a multi-view recording, to an animatable, photo-real head.",
    epilog="--json, --quiet, --debug and -v may stand anywhere on the line.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"davatar {__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no information, only results.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Show the log; twice for all of it.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Where recordings and data sets are.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Where runs are.")] = None,
    renders_dir: Annotated[Path | None, typer.Option(help="Where videos go that belong to no run.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where things are kept that can be made again.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    console.configure(quiet=quiet, json=json, debug=debug, verbose=verbose)
    for name, path in zip(paths.NAMES, (data_dir, models_dir, renders_dir, cache_dir), strict=True):
        paths.override(name, path)


app.command("demo")(demo_command.command)
app.command("track")(track_command.command)
app.add_typer(avatar_group.app, name="avatar")
app.command("render")(render_command.command)
app.command("eval")(eval_command.command)
app.add_typer(data_group.app, name="data")
app.add_typer(prior_group.app, name="prior")
app.add_typer(runs_group.app, name="runs")
app.add_typer(plugins_group.app, name="plugins")
app.command("paths")(paths_command.command)
app.command("verify")(verify_command.command)
app.command("bench")(bench_command.command)
app.command("doctor")(doctor_command.command)


def main() -> None:
    """The entry point `davatar`."""
    # Threads that wait for each other by spinning take a dozen times as long when something else runs; read by OpenMP
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
