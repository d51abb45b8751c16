"""The demo's report: what every stage made, what it cost, what is wrong with it, and the lines that do the same."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from davatar.capture.open import open_capture
from davatar.checks.stages import Done
from davatar.core.files import read_json
from davatar.core.manifest import dependency_versions
from davatar.core.progress import Progress, silent
from davatar.dataset.rendering_data import RenderingData, Sample
from davatar.evaluation.charts import bar_chart, line_chart
from davatar.evaluation.pictures import data_uri, stack, strip
from davatar.evaluation.report import Chart, Fact, Picture, Report, Section, Table, metric_text, render_report
from davatar.headmodel.track import load_track

if TYPE_CHECKING:
    from davatar.checks.demo import Chain

SHOWN = 4  # frames of a recording


def demo_report(chain: Chain, done: dict[str, Done], progress: Progress = silent) -> str:
    """The page. Evaluates again (from the pictures that are there) when another session did the measuring."""
    if chain.evaluation is None:
        chain.evaluate({}, progress)
    evaluation, commands = chain.evaluation, chain.commands()
    stages = {
        "record": recording_section(chain, commands["record"]),
        "track": tracking_section(chain, commands["track"]),
        "rasterize": raster_section(chain, commands["rasterize"]),
        "train": training_section(chain, commands["train"]),
        "render": rendering_section(done["render"], commands["render"]),
        "evaluate": replace(evaluation.section, command=commands["evaluate"]),
    }
    costed = [replace(section, cost=cost_text(done[name])) for name, section in stages.items()]
    sections = [*costed, cost_section(done), next_section(chain)]
    report = Report(
        title="From a depth camera to an avatar",
        lead=f"davatar demo filmed a synthetic person with a simulated depth camera and {chain.settings.views} colour "
        "cameras, fitted a head model to the depth frames, learnt an avatar from the tracked frames, and let it "
        "perform a sequence it had never seen. Below is what each step made, what it cost, and the command that does "
        "the same: this page is also the tutorial.",
        facts=facts(chain, done),
        hero=evaluation.film,
        sections=tuple(replace(s, title=f"{k}. {s.title}") for k, s in enumerate(sections, 1)),
        environment={"computer": f"{platform.platform()}, Python {platform.python_version()}"} | dependency_versions(),
    )
    return render_report(report)


def facts(chain: Chain, done: dict[str, Done]) -> tuple[Fact, ...]:
    numbers = done["evaluate"].figures
    peak = max((stage.peak_gb or 0.0) for stage in done.values())
    return (
        Fact(
            "Unseen motion",
            metric_text("psnr", numbers["avatar_psnr"]),
            f"PSNR; mean picture {metric_text('psnr', numbers['mean_image_psnr'])}, "
            f"nearest frame {metric_text('psnr', numbers['nearest_frame_psnr'])}",
        ),
        Fact("Structural similarity", metric_text("ssim", numbers["avatar_ssim"]), "SSIM, 1 = equal"),
        Fact("Tracking error", f"{numbers['tracked_face_mm']:.2f} mm", "true face to tracked surface"),
        Fact(
            "Time",
            duration(sum(stage.seconds for stage in done.values())),
            f"wall clock; {duration(sum(stage.cpu_seconds for stage in done.values()))} of CPU",
        ),
        Fact("Memory", f"{peak:.1f} GB" if peak else "unknown", "largest, whole process"),
    )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def cost_text(stage: Done) -> str:
    return f"{duration(stage.seconds)}, {duration(stage.cpu_seconds)} of CPU" + (" (resumed)" if stage.resumed else "")


def spread(count: int, wanted: int = SHOWN) -> list[int]:
    return sorted({int(k) for k in np.linspace(0, count - 1, min(wanted, count)).round()})


def recording_section(chain: Chain, command: str) -> Section:
    import cv2

    rows = []
    for folder in chain.recordings:
        capture = open_capture(folder)
        frames = [capture.frame(k) for k in spread(len(capture))]
        window = head_window([frame.depth for frame in frames])
        colors, depths = [f.color[window] for f in frames], [depth_picture(f.depth[window]) for f in frames]
        rows.append(strip(colors + depths))
    capture = open_capture(chain.recordings[0])
    colors = [capture.frame(0, serial).color for serial in capture.views[1:]]
    views = [cv2.resize(color, (192, 192), interpolation=cv2.INTER_AREA) for color in colors]
    return Section(
        title="Film",
        text=f"{len(chain.recordings)} performances of {len(capture)} frames. The first camera measures depth with the "
        "faults of a real sensor (noise, flying pixels, holes in dark hair); the others see colour only. The last "
        "performance and the last camera are kept for testing.",
        command=command,
        pictures=(
            Picture.image(
                stack(rows),
                "One performance per row: colour and depth of the first camera (blue = near, black = not measured).",
                labels=("colour", "depth"),
            ),
            Picture.image(
                strip(views),
                wide=False,
                caption="The same instant in the colour cameras; the last one is never trained on.",
            ),
        ),
        notes=("The person is computer-generated, so the truth is known exactly; a real recording is harder.",),
    )


def head_window(depths: Sequence[np.ndarray], side: int = 160) -> tuple[slice, slice]:
    """A square of the picture, at most `side` pixels, around what was measured; the same for all frames."""
    rows, columns = np.nonzero(np.isfinite(depths).any(axis=0))
    height, width = depths[0].shape
    side = min(side, height, width)
    top, left = (
        int(np.clip((found.min() + found.max()) / 2 - side / 2, 0, whole - side)) if len(found) else 0
        for found, whole in ((rows, height), (columns, width))
    )
    return slice(top, top + side), slice(left, left + side)


def depth_picture(depth: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: turbo colours from near to far, black where nothing was measured."""
    from matplotlib import colormaps

    seen = np.isfinite(depth)
    if not seen.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[seen], [1, 99])
    colours = colormaps["turbo"](np.clip((np.nan_to_num(depth) - near) / max(far - near, 1e-6), 0, 1))[..., :3]
    return (255 * colours * seen[..., None]).astype(np.uint8)


TRACK_FIGURES = {
    "face_mm": "face, mean",
    "face_95_mm": "face, 95 %",
    "mouth_mm": "mouth opening",
    "rotation_deg": "rotation, degrees",
    "lost": "lost frames",
    "depth_to_mesh_mean": "depth to surface",
}


def tracking_table(chain: Chain) -> Table:
    """One row per sequence and surface: errors against the true geometry."""
    rows = []
    for folder in chain.recordings:
        found = read_json(folder / "track" / "tracking.json")
        for surface in ("linear", "neural", "truth"):
            if surface in found:
                values = [found[surface].get(key) for key in TRACK_FIGURES]
                rows.append((folder.name, surface, *("" if v is None else f"{v:.2f}" for v in values)))
    return Table(
        ("", "surface", *TRACK_FIGURES.values()),
        tuple(rows),
        f"One frame in {chain.scored_every} against the true geometry, mm. The depth-to-surface distance of the truth "
        "itself is what the sensor's noise causes: a tracker below it fits noise.",
    )


def tracking_section(chain: Chain, command: str) -> Section:
    unseen = chain.recordings[-1]
    residuals = {folder.name: load_track(folder / "track").residual_mm.tolist() for folder in chain.recordings}
    svg = line_chart(
        {name: list(enumerate(values)) for name, values in residuals.items()},
        title="Depth points to tracked surface",
        x_label="frame",
        y_label="mm",
        from_zero=True,
    )
    neural = ", then the codes of the neural one under its diffusion priors" if chain.settings.stage == "neural" else ""
    return Section(
        title="Track",
        text="From depth alone: find the head, fit pose, identity and expression of the linear head model"
        f"{neural}. Colour is not looked at.",
        command=command,
        tables=(tracking_table(chain),),
        pictures=(
            film(
                unseen / "track" / "overlay.mp4",
                f"{unseen.name}. Depth error: blue 0, red 5 mm and more.",
                labels=("recording", "tracked head", "depth error"),
            ),
        ),
        charts=(
            Chart(svg, "Mean distance of the used depth points to the tracked surface."),
            Chart(_weights_chart(unseen), f"The strongest tracked expression weights of {unseen.name}."),
        ),
        notes=(
            "Hair is no part of the head model: the tracked surface is the bald head under it.",
            "Gaze, teeth and tongue are invisible to the depth camera: the tracked surface has unmoving eyes and no "
            "mouth interior. The avatar paints them from what the expression weights tell.",
        ),
    )


def _weights_chart(folder: Path) -> str:
    from davatar.headmodel.morphable import open_morphable

    weights = load_track(folder / "track").morphable_expression
    names = open_morphable().expression_names
    strongest = np.argsort(-np.ptp(weights, axis=0))[:5]
    return line_chart(
        {names[k]: list(enumerate(weights[:, k].tolist())) for k in strongest},
        title="Expression weights",
        x_label="frame",
        y_label="weight",
    )


def raster_section(chain: Chain, command: str) -> Section:
    data = RenderingData(chain.data)
    keys = data.samples("train")
    rows = [strip(maps_of(data.load(keys[k]))) for k in spread(len(keys), 3)]
    return Section(
        title="Rasterise",
        text="The tracked surface seen by every camera: what the avatar is told about a frame. Canonical coordinates "
        "say which point of the head a pixel shows, whatever the pose.",
        command=command,
        pictures=(
            Picture.image(
                stack(rows),
                "Three training frames, as the avatar sees them.",
                labels=("picture", "depth", "normal", "canonical", "coverage"),
            ),
        ),
    )


def maps_of(sample: Sample) -> list[np.ndarray]:
    """Picture, depth, normal, canonical, coverage as [S, S, 3] uint8."""
    mask = sample.mask[..., None]
    depth = np.zeros_like(sample.depth)
    if sample.mask.any():
        low, high = sample.depth[sample.mask].min(), sample.depth[sample.mask].max()
        depth = 0.15 + 0.85 * (high - sample.depth) / max(high - low, 1e-6)
    parts = [
        sample.image,
        depth[..., None].repeat(3, -1) * mask,
        (sample.normals * 0.5 + 0.5) * mask,
        sample.uv,
        sample.coverage[..., None].repeat(3, -1),
    ]
    return [np.round(np.clip(part, 0, 1) * 255).astype(np.uint8) for part in parts]


def training_section(chain: Chain, command: str) -> Section:
    lines = chain.run().metrics()
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    looks = [(line["step"], line["preview_psnr"]) for line in lines if "preview_psnr" in line]
    loss = line_chart({"loss": losses}, title="Training loss", x_label="step", y_label="squared error", from_zero=True)
    charts = [Chart(loss, "Training loss; noisy, because every step draws other noise levels.")]
    if len(looks) > 1:
        svg = line_chart({"PSNR": looks}, title="Previews", x_label="step", y_label="PSNR, dB")
        charts.append(Chart(svg, "PSNR of a few held-out frames while training."))
    sequence, camera = chain.held_out
    keys = RenderingData(chain.data).samples("train")
    return Section(
        title="Train",
        text=f"{len(keys)} pictures, {chain.settings.train_steps} steps. A triplane texture on the tracked surface, a "
        "small condition network and a diffusion denoiser learn together; what the surface does not show is told by "
        f"the expression weights. Sequence {sequence} and camera {camera} are not looked at.",
        command=command,
        charts=tuple(charts),
    )


def rendering_section(render: Done, command: str) -> Section:
    return Section(
        title="Render",
        text="The avatar performs: first the sequence it never saw, then the expressions and head motion of another "
        "person, tracked with the same head model.",
        command=command,
        pictures=(
            film(render.figures["held_out"], "The held-out sequence, seen by the first camera.", wide=False),
            film(render.figures["driven"], "Driven by another person's track.", wide=False),
        ),
        notes=(
            "Hair that stands off the tracked surface is painted into thin air: expect halos around it.",
            "Borrowed expressions keep the other person's style: how wide they open the mouth, how they smile.",
        ),
    )


def film(path: str | Path, caption: str, **more) -> Picture:
    """A video file inside the page."""
    return Picture(data_uri(Path(path).read_bytes(), "video/mp4"), caption, kind="video", **more)


def cost_section(done: dict[str, Done]) -> Section:
    rows = [
        (
            name,
            duration(stage.seconds),
            duration(stage.cpu_seconds),
            "–" if stage.peak_gb is None else f"{stage.peak_gb:.2f} GB",
            "interrupted: time of the last session only" if stage.resumed else "",
        )
        for name, stage in done.items()
    ]
    seconds = bar_chart({name: stage.cpu_seconds for name, stage in done.items()}, title="CPU seconds", y_label="s")
    return Section(
        title="Cost",
        tables=(Table(("stage", "wall time", "CPU time", "peak memory until then", ""), tuple(rows)),),
        charts=(
            Chart(
                seconds,
                "CPU time of each stage, s; wall time is shorter where both cores work, longer on a busy computer.",
            ),
        ),
    )


def next_section(chain: Chain) -> Section:
    return Section(
        title="Your own recording",
        text="Any depth camera will do: put 16-bit depth images, colour images and the intrinsics into a folder (the "
        "recordings of this demo show the layout), then:",
        command="davatar data inspect my-recording\ndavatar track my-recording\ndavatar eval my-recording/track\n"
        "davatar avatar train my-recording/track --name me\ndavatar render DA-2 --drive " + str(chain.driver / "track"),
    )
