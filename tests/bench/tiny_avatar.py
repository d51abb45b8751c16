"""What the small avatar reaches on synthetic people, beside what it must beat and without its parts.

    python -m tests.bench.tiny_avatar --subjects 3 --seconds 300 --rows exact
    python -m tests.bench.tiny_avatar --rows exact,exact-untold,exact-regression,noisy,noisy-regression

A row is a geometry (`avatar_subjects`) and what is different about the avatar:

    regression  one step from the conditioning to the picture, no diffusion
    untold      no expression code: neither tokens nor the point stage's share
    untextured  Fourier features of the canonical point instead of the triplane
    eager       what reads the expression tokens learns at five times the rate
    scratch     from random weights instead of the shipped start

Seconds are CPU seconds of the training loop, one thread. PSNR and SSIM are means over pictures, whole picture
on white (128 pixels are too few for the five scales of MS-SSIM); `eyes` is the PSNR in the eyes' boxes, `sharp` the
energy in the highest octave of frequencies over the truth's, `code` what PSNR loses when frames get the codes of
others; the last three on held-out motion.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from davatar.avatar.conditioning import HeadMaps, in_face_boxes, with_expression
from davatar.avatar.model import Avatar, new_avatar
from davatar.avatar.previews import figures, paint, truth, write_sheet
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.training import fit
from davatar.core.runs import Run
from davatar.core.settings import resolve
from davatar.evaluation.baselines import mean_image, nearest
from davatar.evaluation.pixel import Psnr, Ssim
from davatar.evaluation.spectrum import sharpness
from tests.bench.avatar_subjects import GEOMETRIES, frames_of, stance

PRESET = resolve(AvatarSettings, "tiny", environ={}).value
VARIANTS = ("regression", "untold", "untextured", "eager", "scratch")


class FourierFeatures(nn.Module):
    """In the triplane's place: sines and cosines of a canonical point, wavelengths of 250 to 8 mm, nothing learnt."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("frequency", 2 * torch.pi * 2.0 ** torch.linspace(0, 5, channels // 2))
        self.planes = nn.ParameterList()

    def forward(self, points: torch.Tensor, identity: int = 0) -> torch.Tensor:
        phase = (points[:, :, None] * self.frequency).flatten(1)
        return torch.cat([phase.sin(), phase.cos()], 1)


@dataclass(frozen=True)
class Score:
    psnr: float
    ssim: float
    eyes: float
    sharp: float


def score(painted: np.ndarray, frames: Sequence[HeadMaps]) -> Score:
    """Means over pictures [N, H, W, 3] in 0..1 of `frames`."""
    wanted, eyes = truth(frames), []
    for maps, a, b in zip(frames, painted, wanted, strict=True):
        box = maps.mask & in_face_boxes(maps.canonical.astype(np.float32), "eyes")
        if box.sum() > 20:
            eyes.append(-10 * np.log10(np.square(a - b)[box].mean()))
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (painted, wanted))
    pairs = [(a[i : i + 1], b[i : i + 1]) for i in range(len(a))]
    sharp = [sharpness(x, y)["sharpness_high"] for x, y in zip(painted, wanted, strict=True)]
    means = [[Psnr()(*p) for p in pairs], [Ssim()(*p) for p in pairs], eyes, sharp]
    return Score(*(float(np.mean(values)) for values in means))


def baselines(seed: int, train: list[HeadMaps], test: list[HeadMaps]) -> dict[str, np.ndarray]:
    """Mean training picture, and nearest training frame by pose and expression."""
    near = nearest(stance(seed, train), stance(seed, test))
    mean = mean_image(truth(train))
    return {"mean image": np.repeat(mean[None], len(test), 0), "nearest frame": truth([train[i] for i in near])}


def settings_of(variants: Sequence[str], base: AvatarSettings) -> AvatarSettings:
    training = replace(base.tiny_training, regression="regression" in variants)
    if "eager" in variants:
        training = replace(training, token_rate=5 * training.base_rate)
    return replace(base, tiny_training=training, start="scratch" if "scratch" in variants else base.start)


def train(frames: dict[str, list[HeadMaps]], variants: Sequence[str], settings: AvatarSettings, folder: Path) -> Avatar:
    """An avatar trained for the budget."""
    avatar = new_avatar(settings)
    if "untextured" in variants:
        avatar.textures = FourierFeatures(settings.tiny.plane_channels)
    fit(avatar, frames["train"], frames["motion"][::10], Run(folder), settings)
    return avatar.eval()


def untold(frames: Sequence[HeadMaps]) -> list[HeadMaps]:
    return [with_expression(maps, 0 * maps.expression) for maps in frames]


def rows_of(text: str) -> list[tuple[str, list[str]]]:
    """'exact-regression,noisy' -> geometry and variants of each row."""
    rows = []
    for row in text.split(","):
        geometry, *variants = row.split("-")
        if geometry not in GEOMETRIES or set(variants) - set(VARIANTS):
            raise SystemExit(f"no row is called {row!r}: {', '.join(GEOMETRIES)}, then any of {', '.join(VARIANTS)}")
        rows.append((geometry, variants))
    return rows


def show(seed: int, geometry: str, name: str, view: Score, motion: Score, code: float | None = None) -> None:
    told = "" if code is None else f"{code:6.2f}"
    print(
        f"{seed:<8}{geometry:9}{name:36}{view.psnr:7.2f} {view.ssim:.3f} {motion.psnr:7.2f} {motion.ssim:.3f}"
        f"{motion.eyes:7.2f}{motion.sharp:6.2f}{told}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="number of the first subject")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--noise", type=float, default=0.5, help="of the noisy geometry; 1 = about 1.9 mm")
    parser.add_argument("--start", default="base")
    parser.add_argument("--rows", default="exact,exact-regression,noisy,noisy-regression")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "davatar-bench-avatar")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, budget = rows_of(chosen.rows), Budget(seconds=chosen.seconds, clock="cpu")
    print(f"{'subject':8}{'geometry':9}{'method':36}{'view':>7} SSIM  {'motion':>7} SSIM    eyes sharp  code")
    for seed in range(chosen.first, chosen.first + chosen.subjects):
        saved, opponents = [], set()
        for geometry, variants in rows:
            frames = frames_of(chosen.folder, seed, geometry, chosen.noise)
            pictures = "gaze" if geometry == "gaze" else "exact"  # exact and noisy geometry have the same pictures
            if pictures not in opponents:
                opponents.add(pictures)
                pairs = [baselines(seed, frames["train"], frames[split]) for split in ("view", "motion")]
                for name in pairs[0]:
                    both = [score(p[name], frames[split]) for p, split in zip(pairs, ("view", "motion"), strict=True)]
                    show(seed, geometry, name, *both)
            if "untold" in variants:
                frames = {split: untold(maps) for split, maps in frames.items()}
            settings = replace(PRESET, start=chosen.start, budget=budget, seed=seed, preview_every=100_000)
            with tempfile.TemporaryDirectory() as folder:
                avatar = train(frames, variants, settings_of(variants, settings), Path(folder))
            for steps in (1,) if "regression" in variants else (1, 5):
                painted = {split: paint(avatar, frames[split], steps) for split in ("view", "motion")}
                view, motion = (score(painted[split], frames[split]) for split in ("view", "motion"))
                code = None
                if "untold" not in variants:
                    code = figures(avatar, frames["motion"], painted["motion"], steps)["expression_swapped_db"]
                name = ", ".join(["avatar", *variants, f"{steps} step{'s' * (steps > 1)}"])
                show(seed, geometry, name, view, motion, code)
                told = {"subject": seed, "geometry": geometry, "variants": variants, "steps": steps, "code": code}
                saved.append({**told, "view": asdict(view), "motion": asdict(motion)})
                row = "-".join([geometry, *variants])
                write_sheet(
                    chosen.folder / f"{seed}-{row}-{steps}.png", painted["motion"][::6], truth(frames["motion"][::6])
                )
            (chosen.folder / f"subject-{seed}.json").write_text(json.dumps(saved))


if __name__ == "__main__":
    main()
