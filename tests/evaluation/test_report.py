"""The report: one file, nothing fetched, everything escaped; charts that hold their numbers."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from davatar.core.errors import DataError
from davatar.evaluation.charts import bar_chart, line_chart, ticks
from davatar.evaluation.pictures import png_bytes, read_picture, stack, strip, video_bytes
from davatar.evaluation.report import Chart, Fact, Picture, Report, Section, Table, metric_text, render_report


def picture(seed=0, height=32, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def page():
    section = Section(
        title="Track <head>",
        command="davatar track demo/subject --out 'a & b'",
        pictures=(Picture.image(picture(), "one frame", labels=("truth", "avatar")),),
        charts=(Chart(line_chart({"a": [(0, 1.0)]}, title="t", x_label="x", y_label="y"), "curve"),),
        tables=(Table(("", "PSNR"), (("avatar", "31.20 dB"), ("mean image", "18.00 dB")), strong_row=0),),
        notes=("the mouth is blurred",),
    )
    video = Picture.video([picture(k) for k in range(3)], 12, "moving")
    return render_report(Report("Demo", "lead", (Fact("PSNR", "31.2 dB"),), video, (section,), {"torch": "2"}))


def test_page_holds_everything_and_fetches_nothing():
    html = page()
    for expected in (
        "31.20 dB",
        "mean image",
        "the mouth is blurred",
        "data:video/mp4;base64,",
        "data:image/jpeg;base64,",
    ):
        assert expected in html
    assert "Track &lt;head&gt;" in html and "a &amp; b" in html
    references = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert references and all(r.startswith(("data:", "#")) for r in references)
    assert "url(" not in html and "@import" not in html


def test_chart_is_valid_markup_with_every_value():
    svg = line_chart(
        {"a & b": [(0, 1.0), (1, None), (2, 3.0)], "c": [(0, 2.0)]}, title="<t>", x_label="frame", y_label="mm"
    )
    root = ElementTree.fromstring("<div>" + svg + "</div>")
    tips = [node.text for node in root.iter("title")]
    assert {"a & b: 1 at 0", "a & b: 3 at 2", "c: 2 at 0"} <= set(tips)
    path = next(node.get("d") for node in root.iter("path"))
    assert path.count("M") == 2, "a gap breaks the line"


def test_chart_of_nothing_is_empty():
    assert line_chart({"a": [(0, None)]}, title="", x_label="", y_label="") == ""
    assert bar_chart({}, title="", y_label="") == ""


@settings(deadline=None, max_examples=60)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_cover_the_range(low, span):
    high = low + span
    marks = ticks(low, high)
    tolerance = 1e-9 * max(abs(low), abs(high), 1)
    assert marks[0] <= low + tolerance and marks[-1] >= high - tolerance
    assert 2 <= len(marks) <= 8


def test_bar_chart_is_valid_markup():
    root = ElementTree.fromstring(bar_chart({"track": 12.0, "train": 30.0}, title="s", y_label="s"))
    heights = [float(node.get("height")) for node in root.iter("rect")]
    assert heights[1] / heights[0] == pytest.approx(2.5, rel=0.01)


def test_picture_files_come_back(tmp_path):
    (tmp_path / "a.png").write_bytes(png_bytes(picture(1)))
    assert (read_picture(tmp_path / "a.png") == picture(1)).all()
    (tmp_path / "grey.png").write_bytes(png_bytes(picture(1)[..., 0]))
    assert (read_picture(tmp_path / "grey.png") == picture(1)[..., 0]).all()
    (tmp_path / "cut.png").write_bytes(png_bytes(picture(1))[:40])
    for name in ("cut.png", "absent.png"):
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)


def test_strips_keep_pixels():
    row = strip([picture(0), picture(1, 30, 20)], gap=4)
    assert row.shape == (32, 64, 3)
    assert (row[:30, 44:] == picture(1, 30, 20)).all() and (row[30:, 44:] == 255).all()
    assert stack([row, row], gap=4).shape == (68, 64, 3)


def test_video_is_not_made_of_nothing():
    assert b"ftyp" in video_bytes([picture(0, 33, 41)], 10)[:16]
    with pytest.raises(DataError, match="at least one frame"):
        video_bytes([], 10)


def test_numbers_carry_units():
    assert metric_text("psnr", 31.234) == "31.23 dB"
    assert metric_text("ssim", None) == "–"
