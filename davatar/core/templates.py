"""Templates: small working distributions that `davatar plugins new` copies and renames.

They lie in `templates/plugins/<kind>/` of a checkout; a wheel carries the same folder as
`davatar/_templates`. A template works as it stands under the name `my-<kind>`; copying it replaces
that name, nothing else.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from davatar.core.errors import MissingError, UsageError
from davatar.core.files import atomic_folder

_SKIP = {"__pycache__", ".pytest_cache", ".ruff_cache", "build", "dist"}


def templates_folder() -> Path:
    """The installed copy, or the checkout's folder for an editable install.

    Raises:
        MissingError: the installation has neither.
    """
    package = Path(str(files("davatar")))
    for folder in (package / "_templates", package.parent / "templates"):
        if (folder / "plugins").is_dir():
            return folder
    raise MissingError("the templates are not installed", file=package / "_templates", mend="reinstall davatar")


def plugin_kinds() -> list[str]:
    """What `davatar plugins new` can make: metric, capture, rasterizer, ..."""
    return sorted(path.name for path in (templates_folder() / "plugins").iterdir() if path.is_dir())


def new_plugin(kind: str, name: str, parent: str | Path = ".") -> Path:
    """Copy a template to `parent/davatar-<name>` under a new name.

    Args:
        kind: one of `plugin_kinds()`.
        name: lower-case words joined by "-"; the plugin is registered under it.

    Returns:
        The new distribution's folder.

    Raises:
        UsageError: unknown kind, a name that cannot be a package name, or the folder exists.
    """
    kinds = plugin_kinds()
    if kind not in kinds:
        raise UsageError(f"there is no template for {kind!r}", mend=f"there are {', '.join(kinds)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} cannot name a plugin", mend="use lower-case words joined by '-', as in my-metric")
    target = Path(parent) / f"davatar-{name}"
    if target.exists():
        raise UsageError("exists already", file=target, mend="choose another name, or remove it")
    with atomic_folder(target) as folder:
        copy(templates_folder() / "plugins" / kind, folder, old=f"my-{kind}", new=name)
    return target


def copy(source: Path, target: Path, old: str, new: str) -> None:
    """Copy a folder of text files, replacing a dashed name in its four spellings, in texts and in file names."""
    spellings = {
        old: new,
        old.replace("-", "_"): new.replace("-", "_"),
        _camel(old): _camel(new),
        old.replace("-", " "): new.replace("-", " "),
    }

    def renamed(text: str) -> str:
        for before, after in spellings.items():
            text = text.replace(before, after)
        return text

    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if path.is_file() and not _SKIP.intersection(place.parts) and path.suffix != ".pyc":
            file = target / renamed(place.as_posix())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(renamed(path.read_text()))


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))
