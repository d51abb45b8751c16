"""Which training of a head model settings are for: the open recipe, or the published auto-decoder.

A preset, a settings file or `--set` that says `recipe: published` means the latter; everything else is
the open one, whose settings have no such key.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from davatar.core.settings import presets, read_yaml
from davatar.headmodel.published_training import PublishedSettings
from davatar.headmodel.training import TrainingSettings

COMPONENT = "nphm"
_CHOICE = "recipe=published"


def settings_class(
    preset: str | None, config_file: str | Path | None, sets: Sequence[str] = ()
) -> type[TrainingSettings] | type[PublishedSettings]:
    """The settings that a preset, a file and `--set` items are layers of."""
    layers = []
    if preset in presets(COMPONENT):
        layers.append(read_yaml(files("davatar.assets") / "presets" / COMPONENT / f"{preset}.yaml"))
    if config_file is not None:
        layers.append(read_yaml(config_file))
    told = any(layer.get("recipe") == "published" for layer in layers)
    return PublishedSettings if told or any("".join(item.split()) == _CHOICE for item in sets) else TrainingSettings
