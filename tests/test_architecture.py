"""The layers of the package, read from its imports (those inside functions too)."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "davatar"

BELOW = {
    "core": (),
    "geometry": ("core",),
    "diffusion": ("core",),
    "raster": ("geometry",),
    "capture": ("geometry",),
    "headmodel": ("geometry",),
    "prior": ("headmodel", "diffusion"),
    "tracking": ("prior", "headmodel", "capture", "raster"),
    "dataset": ("capture", "raster", "headmodel"),
    "avatar": ("dataset", "raster", "diffusion", "headmodel"),
    "evaluation": ("geometry", "raster"),
}
DOMAINS = tuple(BELOW)
TOP = {"checks": (*DOMAINS, "testing"), "testing": DOMAINS, "cli": (*DOMAINS, "checks", "testing")}
HEAVY = "torch diffusers accelerate trimesh cv2 scipy skimage av matplotlib torchmetrics numpy httpx rich".split()


def allowed(folder: str) -> set[str]:
    """What a folder may import: itself, its arrows, and what those import."""
    if folder in TOP:
        return {folder, *TOP[folder]}
    reach, todo = {folder}, list(BELOW[folder])
    while todo:
        lower = todo.pop()
        if lower not in reach:
            reach.add(lower)
            todo.extend(BELOW[lower])
    return reach


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[tuple[str, ...]]:
    """Dotted names of every module a file imports, wherever in it, relative ones resolved."""
    here = path.relative_to(PACKAGE.parent).with_suffix("").parts
    found = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("folder", sorted({*DOMAINS, *TOP}))
def test_a_folder_imports_only_what_lies_below_it(folder):
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(name)}"
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for name in imports(path)
        if name[0] == "davatar" and len(name) > 1 and (PACKAGE / name[1]).is_dir() and name[1] not in allowed(folder)
    ]
    assert wrong == []


def test_every_folder_has_a_place_in_the_layers():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders - {"assets"} == {*DOMAINS, *TOP}


def test_rich_and_printing_live_in_cli_only():
    wrong = []
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == "cli":
            continue
        wrong += [f"{path.name} imports {name[0]}" for name in imports(path) if name[0] in ("rich", "typer")]
        calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
        wrong += [f"{path.name} prints" for call in calls if _prints(call)]
    assert wrong == []


def _prints(call: ast.Call) -> bool:
    """A print to the standard streams; into a file of the domain's own it is a write like any other."""
    to_a_file = any(word.arg == "file" and not ast.unparse(word.value).startswith("sys.") for word in call.keywords)
    return isinstance(call.func, ast.Name) and call.func.id == "print" and not to_a_file


def test_files_are_named_after_what_is_in_them():
    vague = ("util", "utils", "helper", "helpers", "misc", "common")
    assert [str(path) for path in FILES if path.stem.strip("_") in vague] == []


def test_every_module_says_what_it_is_for():
    silent = [str(p) for p in FILES if p.read_text(encoding="utf-8").strip() and not _docstring(p)]
    assert silent == []


def _docstring(path: Path) -> str | None:
    return ast.get_docstring(_tree(path))


EVERY_HELP = """
import sys
import typer
from typer.testing import CliRunner
from davatar.cli.main import app

def walk(command, words):
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words
    return 1 + sum(walk(inner, [*words, name]) for name, inner in getattr(command, "commands", {}).items())

print(walk(typer.main.get_command(app), []) > 20, sorted(set(sys.argv[1:]) & sys.modules.keys()))
"""


def test_no_help_imports_anything_heavy():
    """Every command's help, in one process; what counts is which modules are there, not how long it took."""
    ran = subprocess.run([sys.executable, "-P", "-c", EVERY_HELP, *HEAVY], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("True []\n", "")
