"""From an entry point to its battery: what `davatar plugins check` runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from davatar.core import plugins
from davatar.core.errors import DataError, MissingError
from davatar.headmodel.scans import ScanSettings
from davatar.testing.metrics import check_metric
from davatar.testing.rasterizers import check_rasterizer
from davatar.testing.require import require
from davatar.testing.scans import check_scans


def check_plugin(group: str, name: str) -> str:
    """Import a plugin and run every check of its contract that needs no recording.

    Returns:
        What was checked.

    Raises:
        VerificationError: it breaks its contract.
        MissingError: it does not import, or lacks weights.
    """
    target = plugins.load(group, name)
    require(callable(target), f"{name} is a {type(target).__name__}, expected a callable")
    if group == "davatar.metrics":
        check_metric(target())
        return "imports and passes check_metric"
    if group == "davatar.rasterizers":
        check_rasterizer(target)
        return "imports and passes check_rasterizer"
    if group == "davatar.captures":
        with tempfile.TemporaryDirectory() as folder:
            require(target(Path(folder)) is None, f"{name} takes an empty folder for a recording of its layout")
        return "imports and declines an empty folder"
    if group == "davatar.scans":
        with tempfile.TemporaryDirectory() as folder:
            try:
                source = target(ScanSettings(source=name, path=folder, identities=2, expressions=2))
            except (DataError, MissingError):
                return "imports and refuses an empty folder"
        check_scans(source)
        return "imports and passes check_scans"
    return "imports"
