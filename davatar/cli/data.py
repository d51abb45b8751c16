"""`davatar data fetch|rasterize|record|list|inspect`: everything that makes or looks at recordings and data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from davatar.cli import console
from davatar.core.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Fetch, record, rasterise and look at data.")


What = Literal["model", "nersemble", "rendering", "all"]
Geometry = Literal["neural", "linear", "exact"]


def _participants() -> list[str]:
    from davatar.dataset.catalogue import load_catalogue

    return load_catalogue().participants


@app.command()
def fetch(
    participants: Annotated[
        list[str], typer.Argument(help="Participants of the catalogue, e.g. 18.", autocompletion=_participants)
    ],
    what: Annotated[What, typer.Option(help="Kind of archive.")] = "all",
    mirror: Annotated[str | None, typer.Option(help="A folder or URL that takes the place of the server.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only zips that are on this machine.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Fetch published participants, or your own catalogue entries; an interrupted download goes on."""
    from davatar.dataset.catalogue import TERMS, WHAT, load_catalogue
    from davatar.dataset.fetch import fetch as bring
    from davatar.dataset.fetch import plan

    catalogue = load_catalogue()
    archives = catalogue.select(participants, WHAT if what == "all" else [what])
    steps = plan(archives, catalogue.root, mirror, offline=offline, sizes=dry_run)
    rows = [
        {
            "participant": step.archive.participant,
            "what": step.archive.what,
            "state": step.state,
            "from": step.source,
            "to": str(step.archive.target),
            "bytes": step.size,
        }
        for step in steps
    ]
    if dry_run:
        console.table(
            ["participant", "what", "state", "from", "to", "size"],
            [[*list(row.values())[:5], _size(row["bytes"])] for row in rows],
        )
        console.result(rows)
        return
    progress = console.progress()
    if any(step.state == "remote" for step in steps):
        progress.info(TERMS)
    folders = bring(steps, progress=progress)
    for folder in folders:
        console.out(str(folder))
    console.out("next: " + "; ".join(_after(step.archive) for step in steps[-1:]))
    console.result(rows)


def _after(archive: Any) -> str:
    if archive.what == "model":
        return f"davatar runs show {archive.folder}"
    return f"davatar data inspect {archive.folder if archive.what == 'rendering' else archive.target}"


def _size(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


@app.command()
def rasterize(
    tracks: Annotated[
        list[Path], typer.Argument(help="Track folders, one per sequence; with --geometry exact simulated recordings.")
    ],
    capture: Annotated[
        list[Path] | None, typer.Option(help="The recordings, in the order of the tracks; default: as the tracks say.")
    ] = None,
    sequence: Annotated[list[str] | None, typer.Option(help="Name of a sequence; default: the recording's.")] = None,
    participant: Annotated[int, typer.Option(min=0, help="Number of the person.")] = 1,
    geometry: Annotated[Geometry, typer.Option(help="Tracked surface, morphable model, or truth.")] = "neural",
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: the first sequence's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the data set; default: the next version.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures, px (default 256).")] = None,
    margin: Annotated[float | None, typer.Option(help="Room around the head (default 1).")] = None,
    subpixels: Annotated[int | None, typer.Option(help="Coverage rays per side and pixel; 0 = automatic.")] = None,
    every: Annotated[int | None, typer.Option(help="Use every n-th frame.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="Camera to use; may be repeated; default: all.")] = None,
    cut_neck: Annotated[bool | None, typer.Option("--cut-neck/--keep-neck", help="Fade to white at the neck.")] = None,
    hold_out_camera: Annotated[list[str] | None, typer.Option(help="Camera kept for testing.")] = None,
    hold_out_sequence: Annotated[list[str] | None, typer.Option(help="Sequence kept for testing.")] = None,
    rasterizer: Annotated[str | None, typer.Option(help="Plugin of group davatar.rasterizers.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of a setting.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Rasterise tracked meshes beside their pictures: the data set that avatars are trained on."""
    from davatar.core.paths import data_dir
    from davatar.core.settings import resolve
    from davatar.dataset.rasterize import estimate, place, rasterize_tracks
    from davatar.dataset.settings import RasterSettings

    flags = {
        "size": size,
        "margin": margin,
        "subpixels": subpixels,
        "every": every,
        "views": tuple(view) if view else None,
        "cut_neck": cut_neck,
        "hold_out_cameras": tuple(hold_out_camera) if hold_out_camera else None,
        "hold_out_sequences": tuple(hold_out_sequence) if hold_out_sequence else None,
        "rasterizer": rasterizer,
    }
    settings = resolve(RasterSettings, config_file=config, sets=set_ or (), flags=flags).value
    recordings = _recordings(tracks, capture, sequence, participant, geometry)
    name = name or recordings[0].sequence
    expected = estimate(recordings, settings)
    if dry_run:
        where = str(out or data_dir() / "rendering_data" / f"v<next>-{name}")
        extent = f"{expected.steps} time steps x {expected.views} cameras, about {_size(expected.bytes)}"
        console.out(f"{extent}, to {where}")
        console.result({"steps": expected.steps, "views": expected.views, "bytes": expected.bytes, "out": where})
        return
    folder = out or place(data_dir() / "rendering_data", recordings, settings, name)
    rasterize_tracks(recordings, folder, settings, name, console.progress())
    console.out(str(folder))
    console.out(f"next: davatar avatar train {folder if out else folder.name}")
    console.result({"out": str(folder)})


def _recordings(
    tracks: list[Path], captures: list[Path] | None, names: list[str] | None, participant: int, geometry: str
) -> list[Any]:
    from davatar.capture.open import open_capture
    from davatar.dataset.rasterize import tracked
    from davatar.dataset.tracks import recording_of
    from davatar.dataset.truth import exact

    for option, given in (("--capture", captures), ("--sequence", names)):
        if given and len(given) != len(tracks):
            found = f"{len(given)} times {option} for {len(tracks)} tracks"
            raise UsageError(found, mend="give one per track, or none")
    names = names or [None] * len(tracks)
    if geometry == "exact":
        pairs = zip(tracks, names, strict=True)
        return [exact(folder, open_capture(folder), participant, name) for folder, name in pairs]
    sources = captures or [recording_of(folder) for folder in tracks]
    return [
        tracked(folder, open_capture(source), participant, name, geometry)
        for folder, source, name in zip(tracks, sources, names, strict=True)
    ]


@app.command()
def record(
    out: Annotated[Path, typer.Argument(help="Folder of the recording; several sequences become folders in it.")],
    subject: Annotated[int, typer.Option(min=0, help="Who is filmed: every number is another person.")] = 1,
    sequences: Annotated[int, typer.Option(min=1, help="How many performances.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Frames per sequence.")] = 40,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames per second.")] = 10.0,
    expression: Annotated[list[str] | None, typer.Option(help="Use only these named expressions.")] = None,
    motion: Annotated[float, typer.Option(min=0, help="How much the head moves; 0 = not at all.")] = 1.0,
    views: Annotated[int, typer.Option(min=0, help="Colour cameras besides the one that measures depth.")] = 0,
    view_size: Annotated[int, typer.Option(min=16, help="Side of their pictures, px.")] = 128,
    size: Annotated[tuple[int, int], typer.Option(help="Width and height of the depth camera, px.")] = (640, 576),
    distance: Annotated[float, typer.Option(min=0.2, max=3, help="Of the depth camera, m.")] = 0.6,
    noise: Annotated[float, typer.Option(min=0, help="Scale of the sensor noise; 0 = a perfect sensor.")] = 1.0,
    landmarks: Annotated[bool, typer.Option("--landmarks", help="Also write noisy facial landmarks.")] = False,
    detail: Annotated[float, typer.Option(min=0.02, help="Fineness of the skin, cm.")] = 0.08,
    seed: Annotated[int, typer.Option(min=0, help="Of performance and noise.")] = 0,
) -> None:
    """Film a synthetic person with a simulated depth and colour camera; an interrupted recording goes on."""
    from davatar.capture.synthetic.performances import RecordSettings, record_performances
    from davatar.core.files import check_output_folder
    from davatar.headmodel.morphable import open_morphable

    check_output_folder(out)
    settings = RecordSettings(
        subject=subject,
        sequences=sequences,
        frames=frames,
        fps=fps,
        expressions=tuple(expression or ()),
        motion=motion,
        views=views,
        view_size=view_size,
        size=size,
        distance=distance,
        noise=noise,
        landmarks=landmarks,
        detail=detail,
        seed=seed,
    )
    made = [str(folder) for folder in record_performances(open_morphable(), out, settings, console.progress())]
    for folder in made:
        console.out(folder)
    console.out(f"next: davatar track {made[0]}")
    console.result({"recordings": made})


@app.command("list")
def list_() -> None:
    """List the data sets on this machine, and what the catalogue offers or has brought here."""
    from davatar.core.paths import data_dir
    from davatar.dataset.catalogue import load_catalogue
    from davatar.dataset.layout import summary, versions

    sets = [summary(folder) for folder in versions(data_dir() / "rendering_data")]
    catalogue = load_catalogue()
    offers = [
        {"participant": a.participant, "what": a.what, "folder": a.folder, "there": a.target.is_dir()}
        for a in catalogue.archives
    ]
    if sets:
        console.table(
            ["data set", "participants", "sequences", "cameras", "pictures", "state"],
            [list(row.values())[:6] for row in sets],
            title=str(data_dir() / "rendering_data"),
        )
    else:
        console.out(f"no data sets in {data_dir() / 'rendering_data'}")
    console.table(
        ["participant", *("model", "nersemble", "rendering")],
        [_offer(offers, pid) for pid in catalogue.participants],
        title="catalogue (davatar data fetch PARTICIPANT)",
    )
    console.result({"data_sets": sets, "catalogue": offers})


def _offer(offers: list[dict[str, Any]], participant: str) -> list[str | None]:
    own = [offer for offer in offers if offer["participant"] == participant]
    kinds = {offer["what"]: ("here: " if offer["there"] else "") + offer["folder"] for offer in own}
    return [participant, *(kinds.get(kind) for kind in ("model", "nersemble", "rendering"))]


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A recording, track, data set (or its version), or raw participant.")],
    frames: Annotated[int, typer.Option(min=0, help="Look into at most so many frames; 0 = all.")] = 0,
) -> None:
    """Say what a folder is, its figures, and the problems found in it."""
    from davatar.core.paths import data_dir
    from davatar.dataset.inspection import LISTED
    from davatar.dataset.inspection import inspect as look
    from davatar.dataset.layout import resolve_version, versions

    folder = Path(path)
    if not folder.exists() and versions(data_dir() / "rendering_data"):
        folder = resolve_version(path, data_dir() / "rendering_data")
    report = look(folder, frames, console.progress())
    console.table([report.kind, report.path], [[key, _cell(value)] for key, value in report.facts.items()])
    for problem in report.problems[:LISTED]:
        console.out(f"problem: {problem}")
    if len(report.problems) > LISTED:
        console.out(f"and {len(report.problems) - LISTED} more problems (--json lists all)")
    if not report.problems:
        console.out("no problems found")
    console.result({"kind": report.kind, "path": report.path, "facts": report.facts, "problems": report.problems})


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)
