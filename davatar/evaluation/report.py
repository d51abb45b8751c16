"""The report: one HTML file that needs nothing beside it (pictures, videos and charts are inside).

A report is data: a heading, facts, sections; each section may carry the command that made it, so that a reader
can repeat every step. `davatar eval` and `davatar demo` fill the same classes. The page itself is the template
davatar/assets/report/report.html.j2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files

import numpy as np

from davatar.evaluation.pictures import data_uri, jpeg_bytes, video_bytes


@dataclass(frozen=True)
class Fact:
    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Picture:
    source: str  # data URI
    caption: str
    kind: str = "image"  # or "video"
    wide: bool = True
    pixelated: bool = False  # small pictures are shown enlarged without smoothing
    labels: tuple[str, ...] = ()  # heads over equally wide columns of the picture

    @staticmethod
    def image(pixels: np.ndarray, caption: str, **more) -> Picture:
        """`pixels` [H, W, 3] uint8."""
        return Picture(data_uri(jpeg_bytes(pixels), "image/jpeg"), caption, **more)

    @staticmethod
    def video(frames, fps: float, caption: str, **more) -> Picture:
        """`frames`: iterable of [H, W, 3] uint8."""
        return Picture(data_uri(video_bytes(frames, fps), "video/mp4"), caption, kind="video", **more)


@dataclass(frozen=True)
class Chart:
    svg: str  # from `charts`
    caption: str


@dataclass(frozen=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    strong_row: int | None = None  # the row that the reader looks for


@dataclass(frozen=True)
class Section:
    title: str
    text: str = ""
    command: str = ""  # what makes this part on the command line
    pictures: tuple[Picture, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()  # limits and things that are wrong
    cost: str = ""  # "12 s, 0.8 GB"


@dataclass(frozen=True)
class Report:
    title: str
    lead: str
    facts: tuple[Fact, ...] = ()
    hero: Picture | None = None
    sections: tuple[Section, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """The whole page as text."""
    from jinja2 import Environment, StrictUndefined

    template = (files("davatar.assets") / "report" / "report.html.j2").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(report=report)


def metric_text(name: str, value: float | None) -> str:
    """A metric's value as it stands in a table: units and digits that mean something."""
    if value is None:
        return "–"
    if name == "psnr":
        return f"{value:.2f} dB"
    if name == "mse":
        return f"{value:.5f}"
    return f"{value:.3f}"
