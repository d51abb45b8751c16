"""What the small avatar reaches on synthetic people filmed by a rig, beside what it must beat.

    python -m tests.bench.tiny_avatar --subjects 3 --seconds 300

Sixty instants train (eight of fifteen cameras each); a sixteenth camera and two further sequences are held
out. Geometry is exact, or displaced like a tracker's (`--noise`, 1 = about 1.9 mm). Seconds are CPU seconds
of the training loop, one thread. PSNR and SSIM are means over pictures, whole picture on white.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from davatar.avatar.conditioning import HeadMaps
from davatar.avatar.model import new_avatar
from davatar.avatar.previews import paint, truth, write_sheet
from davatar.avatar.settings import AvatarSettings, Budget
from davatar.avatar.synthetic_frames import Filming, stack_frames, tracker_error, unstack_frames
from davatar.avatar.training import fit
from davatar.capture.synthetic.rig import Rig
from davatar.capture.synthetic.script import ExpressionScript
from davatar.capture.synthetic.subject import Subject
from davatar.core.files import atomic_path
from davatar.core.runs import Run
from davatar.core.settings import resolve
from davatar.evaluation.baselines import Stance, mean_image, nearest
from davatar.evaluation.pixel import Psnr, Ssim
from davatar.headmodel.morphable import open_morphable

SIZE = 128
TRAINING_SEQUENCES, TEST_SEQUENCES, FRAMES = 6, 2, 10
CAMERAS_PER_INSTANT = 8
GEOMETRIES = ("exact", "noisy")
PRESET = resolve(AvatarSettings, "tiny", environ={}).value


def performance(names: tuple[str, ...], seed: int, sequence: int) -> ExpressionScript:
    """Six seconds of acting."""
    return ExpressionScript.performance(names, frames=FRAMES, seed=1000 * seed + sequence, fps=FRAMES / 6)


def film(seed: int, noise: float) -> dict[str, dict[str, list[HeadMaps]]]:
    """geometry -> split (train, view, motion) -> frames; both geometries share their pictures."""
    model = open_morphable()
    subject = Subject.sample(model, seed)
    rig = Rig.arc(16, size=SIZE)
    filming = Filming(subject, rig.cameras[0], SIZE)
    rng = np.random.default_rng([seed, 1])
    found = {geometry: {split: [] for split in ("train", "view", "motion")} for geometry in GEOMETRIES}
    for sequence in range(TRAINING_SEQUENCES + TEST_SEQUENCES):
        script = performance(model.expression_names, seed, sequence)
        for t in range(FRAMES):
            chosen = rng.choice(np.arange(1, 16), CAMERAS_PER_INSTANT, replace=False)
            held_out = sequence >= TRAINING_SEQUENCES
            shots = [("motion", k) for k in chosen[:3]] if held_out else [("train", k) for k in chosen]
            if not held_out and t % 2 == 0:
                shots.append(("view", 0))
            weights, pose = script.weights[t], script.head_to_world[t]
            cameras = [rig.cameras[k] for _, k in shots]
            pictures = filming.pictures(weights, script.gaze[t], pose, cameras)
            for geometry in GEOMETRIES:
                mesh = filming.mesh(weights, pose, tracker_error(rng, noise) if geometry == "noisy" else ())
                for (split, k), camera, picture in zip(shots, cameras, pictures, strict=True):
                    maps = filming.maps(mesh, weights, camera, picture, f"{sequence}/{t:02d}/{k:02d}")
                    found[geometry][split].append(maps)
    return found


def frames_of(folder: Path, seed: int, noise: float) -> dict[str, dict[str, list[HeadMaps]]]:
    """Filmed once per subject, kept in `folder`."""
    path = folder / f"subject-{seed}-noise-{noise:g}.npz"
    if not path.is_file():
        found = film(seed, noise)
        arrays = {f"{g}/{s}/{k}": v for g in found for s in found[g] for k, v in stack_frames(found[g][s]).items()}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    with np.load(path) as archive:
        flat: dict[str, dict[str, np.ndarray]] = {}
        for name in archive.files:
            place, _, key = name.rpartition("/")
            flat.setdefault(place, {})[key] = archive[name]
    return {g: {s: unstack_frames(flat[f"{g}/{s}"]) for s in ("train", "view", "motion")} for g in GEOMETRIES}


def scores(painted: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Mean PSNR and SSIM of pictures [N, H, W, 3] in 0..1."""
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (painted, wanted))
    pairs = [(a[i : i + 1], b[i : i + 1]) for i in range(len(a))]
    return float(np.mean([Psnr()(*p) for p in pairs])), float(np.mean([Ssim()(*p) for p in pairs]))


def stance(seed: int, frames: list[HeadMaps]) -> Stance:
    """How the head stands to the camera, and its expression, from the script that moved it."""
    names, cameras = open_morphable().expression_names, Rig.arc(16, size=SIZE).cameras
    scripts: dict[int, ExpressionScript] = {}
    rotations = []
    for maps in frames:
        sequence, t, k = map(int, maps.key.split("/"))
        if sequence not in scripts:
            scripts[sequence] = performance(names, seed, sequence)
        rotations.append(cameras[k].world_to_camera[:3, :3] @ scripts[sequence].head_to_world[t][:3, :3])
    return Stance(np.stack(rotations), np.stack([maps.expression for maps in frames]))


def baselines(seed: int, train: list[HeadMaps], test: list[HeadMaps]) -> dict[str, np.ndarray]:
    """Mean training picture, and nearest training frame by pose and expression."""
    near = nearest(stance(seed, train), stance(seed, test))
    mean = mean_image(truth(train))
    return {"mean image": np.repeat(mean[None], len(test), 0), "nearest frame": truth([train[i] for i in near])}


def train(frames: dict[str, list[HeadMaps]], settings: AvatarSettings, folder: Path):
    """An avatar trained for the budget."""
    avatar = new_avatar(settings)
    fit(avatar, frames["train"], frames["motion"][::10], Run(folder), settings)
    return avatar.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--start", default="base")
    parser.add_argument("--rows", default="exact,exact-regression,noisy,noisy-regression")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "davatar-bench-avatar")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(seconds=chosen.seconds, clock="cpu")
    print(f"{'subject':8} {'geometry':9} {'method':22} {'view PSNR':>9} {'SSIM':>6} {'motion PSNR':>11} {'SSIM':>6}")
    for seed in range(1, chosen.subjects + 1):
        frames = frames_of(chosen.folder, seed, chosen.noise)
        results: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
        for split in ("view", "motion"):
            test = frames["exact"][split]
            for name, painted in baselines(seed, frames["exact"]["train"], test).items():
                results.setdefault(("any", name), {})[split] = scores(painted, truth(test))
        for row in chosen.rows.split(","):
            geometry, _, variant = row.partition("-")
            settings = replace(PRESET, start=chosen.start, budget=budget, seed=seed, preview_every=100_000)
            if variant:
                settings = replace(settings, tiny_training=replace(settings.tiny_training, regression=True))
            with tempfile.TemporaryDirectory() as folder:
                avatar = train(frames[geometry], settings, Path(folder))
            for steps in (1,) if variant else (1, 5):
                name = "one-step regression" if variant else f"avatar, {steps} step{'s' * (steps > 1)}"
                for split in ("view", "motion"):
                    test = frames[geometry][split]
                    painted = paint(avatar, test, steps)
                    results.setdefault((geometry, name), {})[split] = scores(painted, truth(test))
                    if split == "motion":
                        write_sheet(chosen.folder / f"{seed}-{row}-{steps}.png", painted[::6], truth(test[::6]))
        for (geometry, name), both in results.items():
            (a, b), (c, d) = both["view"], both["motion"]
            print(f"{seed:<8} {geometry:9} {name:22} {a:9.2f} {b:6.3f} {c:11.2f} {d:6.3f}", flush=True)
        saved = [{"subject": seed, "geometry": g, "method": m, **both} for (g, m), both in results.items()]
        (chosen.folder / f"subject-{seed}.json").write_text(json.dumps(saved))


if __name__ == "__main__":
    main()
