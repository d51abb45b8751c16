"""The whole chain on a built-in subject: film, track, rasterise, train, render, evaluate, report.

Each stage calls the same function as its command, with the same settings, and knows that command's line; the report
prints it. Everything lies in one folder, but for the avatar, which is a run like any other, so that
`davatar render DA-1` finds it. A second call goes on where the first one stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davatar.checks.demo_settings import DemoSettings
from davatar.checks.stages import Done, Stage, run_stages
from davatar.core import paths, runs
from davatar.core.content import hash_value
from davatar.core.files import read_json, write_json, write_text
from davatar.core.journal import Journal
from davatar.core.lock import exclusive
from davatar.core.progress import Progress, silent
from davatar.core.settings import resolve, to_mapping

JOURNAL, RUN, REPORT = "journal.jsonl", "run.json", "report.html"
NAME = "demo"


@dataclass(frozen=True)
class DemoResult:
    report: Path
    run: runs.Run
    numbers: dict[str, float | None]  # psnr and ssim of avatar and baselines, tracking error in mm
    stages: dict[str, Done]
    commands: tuple[str, ...]  # what to type next


def demo(
    out: str | Path = "davatar-demo",
    quick: bool = False,
    seed: int | None = None,
    settings: DemoSettings | None = None,
    progress: Progress = silent,
) -> DemoResult:
    """Run the chain, or go on with it.

    Args:
        out: folder for recordings, tracks, data set and report; the avatar goes to the models folder.
        quick: smaller sizes, within 2 minutes.
        seed: who is filmed and what they do.
        settings: instead of the preset that `quick` chooses.

    Raises:
        UsageError: another process works in `out`.
        Interrupted: a signal arrived; call again to go on.
    """
    if settings is None:
        settings = resolve(DemoSettings, "quick" if quick else "full", component="demo", flags={"seed": seed}).value
    chain = Chain(Path(out), settings)
    with exclusive(chain.out):
        done = run_stages(chain.stages(), Journal(chain.out / JOURNAL, hash_value(to_mapping(settings))), progress)
        report = chain.out / REPORT
        if not report.is_file() or not all(stage.reused for stage in done.values()):
            from davatar.checks.demo_report import demo_report

            progress.info("Writing the report")
            write_text(report, demo_report(chain, done, progress))
    return DemoResult(report, chain.run(), done["evaluate"].figures, done, chain.next_commands())


class Chain:
    """The stages for one folder and one choice of sizes, and the lines that do the same."""

    def __init__(self, out: Path, settings: DemoSettings):
        self.out, self.settings = out, settings
        self.evaluation: Any = None  # of this session, for the report

    def stages(self) -> list[Stage]:
        return [
            Stage("record", "Filming a synthetic person", self.record, weight=15),
            Stage("track", "Tracking the head in depth", self.track, weight=30),
            Stage("rasterize", "Rasterising the tracked head", self.rasterize, weight=10),
            Stage("train", "Training the avatar", self.train, weight=35),
            Stage("render", "Rendering held-out frames and another person's expressions", self.render, weight=5),
            Stage("evaluate", "Measuring", self.evaluate, weight=5),
        ]

    @property
    def recordings(self) -> list[Path]:
        from davatar.capture.synthetic.performances import sequence_folders

        return sequence_folders(self.out / "recordings", self.record_settings())

    @property
    def held_out(self) -> tuple[str, str]:
        """Sequence and camera that training never sees."""
        return self.recordings[-1].name, f"{self.settings.views:02d}"

    @property
    def driver(self) -> Path:
        return self.out / "driver"

    @property
    def data(self) -> Path:
        return self.out / "rendering_data" / f"v0.1-{NAME}"

    @property
    def scored_every(self) -> int:
        """Of how many frames one is compared with the true geometry."""
        return -(-self.settings.frames // self.settings.scored)

    def run(self) -> runs.Run:
        """The avatar's run, known from the moment it is claimed."""
        return runs.Run(Path(read_json(self.out / RUN)["folder"]))

    def record_settings(self, driver: bool = False) -> Any:
        from davatar.capture.synthetic.performances import RecordSettings

        s = self.settings
        return RecordSettings(
            subject=s.seed + 1 if driver else s.seed,
            sequences=1 if driver else s.sequences,
            frames=s.driver_frames if driver else s.frames,
            fps=s.fps,
            views=0 if driver else s.views,
            view_size=s.picture,
            size=s.depth_size,
            distance=s.distance,
            detail=s.detail,
            seed=s.seed + 1 if driver else s.seed,
        )

    def record(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from davatar.capture.synthetic.performances import record_performances
        from davatar.headmodel.morphable import open_morphable

        model = open_morphable()
        folders = record_performances(model, self.out / "recordings", self.record_settings(), progress)
        folders = folders + record_performances(model, self.driver, self.record_settings(driver=True), progress)
        return {}, [folder / "meta.json" for folder in folders]

    def track(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from davatar.capture.open import open_capture
        from davatar.tracking.settings import TrackSettings
        from davatar.tracking.tracker import track

        figures, outputs = {}, []
        for folder in [*self.recordings, self.driver]:
            progress.info(f"track {folder}")
            flags = {"stage": self.settings.stage, "output.overlay": folder == self.recordings[-1]}
            chosen = resolve(TrackSettings, "open", flags=flags).value
            track(open_capture(folder, progress), folder / "track", chosen, progress=progress)
            outputs.append(folder / "track" / "track.json")
            figures[folder.name] = read_json(outputs[-1])["summary"]
        return figures, outputs

    def rasterize(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from davatar.capture.open import open_capture
        from davatar.dataset.rasterize import rasterize_tracks, tracked
        from davatar.dataset.settings import RasterSettings

        geometry = self.settings.stage
        recordings = [tracked(path / "track", open_capture(path), geometry=geometry) for path in self.recordings]
        sequence, camera = self.held_out
        chosen = RasterSettings(size=self.settings.picture, hold_out_cameras=(camera,), hold_out_sequences=(sequence,))
        rasterize_tracks(recordings, self.data, chosen, NAME, progress)
        return {}, [self.data / "stats.json"]

    def train(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from torch import bfloat16

        from davatar.avatar.precision import fastest
        from davatar.avatar.settings import AvatarSettings
        from davatar.avatar.training import train_avatar

        if not (self.out / RUN).is_file() or not self.run().folder.is_dir():
            # The faster precision is measured, so it is chosen once: a resumed training must not change it.
            precision = "bfloat16" if fastest("cpu") == bfloat16 else "float32"
            write_json(self.out / RUN, {"folder": str(runs.create_run(name=NAME).folder), "precision": precision})
        flags = {
            "budget.steps": self.settings.train_steps,
            "seed": self.settings.seed,
            "start": self.settings.start,
            "precision": read_json(self.out / RUN)["precision"],
        }
        chosen = resolve(AvatarSettings, "tiny", sets=["budget.seconds=null"], flags=flags)
        run = train_avatar(self.data, self.run(), chosen, progress)
        return {"run": run.name}, [run.latest_checkpoint()[1]]

    def render(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from davatar.avatar.rendering import render

        own = render(self.run(), progress=progress)
        driven = render(self.run(), driver=self.driver / "track", progress=progress)
        return {"held_out": str(own.video), "driven": str(driven.video)}, [own.video, driven.video]

    def evaluate(self, results: dict[str, Done], progress: Progress) -> tuple[dict, Sequence[Path]]:
        from davatar.checks.avatar_evaluation import evaluate_avatar
        from davatar.checks.tracking_score import score_track

        self.evaluation = found = evaluate_avatar(self.run(), command=self.commands()["evaluate"], progress=progress)
        figures = {
            f"{who}_{metric}": found.value(metric, None if who == "avatar" else who)
            for who in ("avatar", "mean_image", "nearest_frame")
            for metric in ("psnr", "ssim")
        }
        surface = [
            score_track(folder / "track", folder, every=self.scored_every, progress=progress)[self.settings.stage]
            for folder in self.recordings
        ]
        figures["tracked_face_mm"] = sum(one["face_mm"] for one in surface) / len(surface)
        return figures, [found.result, *(folder / "track" / "tracking.json" for folder in self.recordings)]

    def run_word(self) -> str:
        """What names the run on a command line of this user: DA-1, or its path where that would not find it."""
        run = self.run()
        plain = paths.place("models").origin != "command line" and run.folder.parent == paths.models_dir()
        return run.short_name if plain else str(run.folder)

    def commands(self) -> dict[str, str]:
        """Stage -> the lines that do the same."""
        s, word = self.settings, self.run_word()
        sequence, camera = self.held_out
        tracks = [str(folder / "track") for folder in self.recordings]
        stage = [] if s.stage == "neural" else ["--stage", s.stage]
        lines = {
            "record": [
                ["data", "record", self.out / "recordings", *_record_flags(self.record_settings())],
                ["data", "record", self.driver, *_record_flags(self.record_settings(driver=True))],
            ],
            "track": [
                ["track", folder, *stage, *([] if folder == self.recordings[-1] else ["--no-overlay"])]
                for folder in [*self.recordings, self.driver]
            ],
            "rasterize": [
                ["data", "rasterize", *tracks, "--geometry", s.stage, "--size", s.picture, "--hold-out-sequence",
                 sequence, "--hold-out-camera", camera, "--name", NAME, "--out", self.data]
            ],
            "train": [
                ["avatar", "train", self.data, "--steps", s.train_steps, "--from", s.start, "--seed", s.seed,
                 "--set", f"precision={read_json(self.out / RUN)['precision']}", "--name", NAME]
            ],
            "render": [["render", word], ["render", word, "--drive", self.driver / "track"]],
            "evaluate": [
                ["eval", word],
                *(["eval", folder / "track", "--every", self.scored_every] for folder in self.recordings),
            ],
        }  # fmt: skip
        return {name: "\n".join(_line(words) for words in group) for name, group in lines.items()}

    def next_commands(self) -> tuple[str, ...]:
        return tuple(self.commands()["render"].splitlines())


def _record_flags(settings: Any) -> list[Any]:
    """The flags of `davatar data record` that differ from its defaults."""
    flags: list[Any] = []
    default = type(settings)()
    for name, value in vars(settings).items():
        if value != getattr(default, name):
            flags += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
    return flags


def _line(words: Sequence[Any]) -> str:
    return shlex.join(["davatar", *map(str, words)])
