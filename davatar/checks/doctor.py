"""What `davatar doctor` looks at: whether this machine and installation can do the whole chain.

Each check is one function that returns a `Finding`; a check that fails says how to mend it. Nothing is
fetched and nothing outside a temporary folder is written.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from davatar import __version__
from davatar.core import paths, plugins
from davatar.core.manifest import dependency_versions

GIB = 2**30
DEMO_MEMORY_GIB = 6  # what the demo is allowed to use
DEMO_DISK_GIB = 2


@dataclass(frozen=True)
class Finding:
    name: str
    state: Literal["ok", "note", "bad"]  # note: works, but you may want to know
    text: str
    mend: str = ""


def examine() -> list[Finding]:
    """Run every check; one that raises is itself a bad finding."""
    findings = []
    for name, check in CHECKS.items():
        try:
            findings.append(check())
        except Exception as error:  # the point of a doctor is to survive what is broken
            findings.append(Finding(name, "bad", f"{type(error).__name__}: {error}", "reinstall davatar"))
    return findings


def python() -> Finding:
    text = f"davatar {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Finding("python", "ok", text)


def packages() -> Finding:
    found = dependency_versions()
    absent = [name for name, number in found.items() if number == "absent"]
    if absent:
        return Finding("packages", "bad", f"absent: {', '.join(absent)}", f"pip install {' '.join(absent)}")
    return Finding("packages", "ok", ", ".join(f"{name} {number}" for name, number in found.items()))


def device() -> Finding:
    import torch

    cores = os.cpu_count() or 1
    text = f"{cores} cores, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        return Finding("device", "ok", f"{text}, {torch.cuda.get_device_name(0)} with {total:.0f} GiB")
    return Finding("device", "note", f"{text}, no GPU", "preset tiny is made for this; small and sd21 want a GPU")


def memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", "note", "cannot be read on this system")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if total < DEMO_MEMORY_GIB:
        return Finding(
            "memory", "note", f"{total:.1f} GiB", f"the demo may need {DEMO_MEMORY_GIB} GiB: close other programs"
        )
    return Finding("memory", "ok", f"{total:.1f} GiB")


def disk() -> Finding:
    """Every folder of `davatar paths` can be written, and has room."""
    texts, worst = [], Finding("disk", "ok", "")
    for place in paths.places():
        existing = next(folder for folder in (place.path, *place.path.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / GIB
        texts.append(f"{place.name} {free:.0f} GiB free")
        if not os.access(existing, os.W_OK):
            return Finding("disk", "bad", f"{place.path} cannot be written", f"set DAVATAR_{place.name.upper()}")
        if free < DEMO_DISK_GIB and worst.state == "ok":
            worst = Finding("disk", "note", "", f"{place.path} is almost full: set DAVATAR_{place.name.upper()}")
    return Finding("disk", worst.state, ", ".join(texts), worst.mend)


def assets() -> Finding:
    """The shipped head model opens."""
    from davatar.headmodel.morphable import open_morphable

    model = open_morphable()
    return Finding(
        "assets", "ok", f"morphable model: {len(model.neutral)} vertices, {len(model.expression)} expression shapes"
    )


def rasterizer() -> Finding:
    """The embree backend passes its battery."""
    from davatar.raster.embree import EmbreeRasterizer
    from davatar.testing import check_rasterizer

    check_rasterizer(EmbreeRasterizer)
    return Finding("rasterizer", "ok", "embree agrees with the analytic plane")


def video() -> Finding:
    """Videos can be written and read back."""
    import av
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for value in (0, 128, 255):
                picture = np.full((64, 64, 3), value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
    if count != 3:
        return Finding("video", "bad", f"wrote 3 frames, read {count}", "reinstall the package av")
    return Finding("video", "ok", "H.264 is written and read")


def plugin_imports() -> Finding:
    broken = plugins.broken()
    if broken:
        text = "; ".join(f"{found.plugin.group} {found.plugin.name}: {found.reason}" for found in broken)
        return Finding("plugins", "bad", text, "`davatar plugins check` tells more")
    return Finding("plugins", "ok", f"{len(plugins.listed())} import")


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": python,
    "packages": packages,
    "device": device,
    "memory": memory,
    "disk": disk,
    "assets": assets,
    "rasterizer": rasterizer,
    "video": video,
    "plugins": plugin_imports,
}
