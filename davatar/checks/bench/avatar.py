"""`davatar bench avatar`: painting frames as the published description paints them, against ours.

Plain: 20 steps, one frame at a time, the condition encoder called in every step, 32 bits. Ours, with the same weights,
sampler and noise: what does not depend on the noise computed once, several frames together, channels last, half
precision where the device gains by it. How far the pictures are apart stands among the rows. Below: our own setting,
which takes fewer steps, and what the number of steps is worth.

Presets: `tiny` (the shipped start of the small avatar, a synthetic head), `published` (Stable Diffusion 2.1's full
size, random weights, for a GPU) and `published-small` (its shapes a twentieth as wide, for a processor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import torch

from davatar.avatar.computing import Computing
from davatar.avatar.hoisting import embed
from davatar.avatar.model import new_avatar
from davatar.avatar.published import TIMES, VARIANCE_SEED, ImageBatch, PublishedAvatar
from davatar.avatar.published_sampling import trailing_times
from davatar.avatar.settings import AvatarSettings
from davatar.avatar.synthetic_frames import Filming
from davatar.avatar.tiny import TinyAvatar
from davatar.avatar.tiny_network import TinySettings
from davatar.avatar.weights import read_weights
from davatar.capture.synthetic.rig import Rig
from davatar.capture.synthetic.script import ExpressionScript
from davatar.capture.synthetic.subject import Subject
from davatar.checks.bench.random_base import PRESETS, random_avatar
from davatar.checks.bench.rows import Options, Row, clock, in_turn
from davatar.core.errors import UsageError, VerificationError
from davatar.core.progress import Progress, silent
from davatar.diffusion.parameterization import Denoised, to_noise
from davatar.diffusion.samplers import (
    as_denoiser,
    sample_ancestral,
    sample_ddim,
    sample_dpm_solver,
    sample_unipc,
)
from davatar.diffusion.schedule import Level, continuous_path
from davatar.headmodel.morphable import open_morphable

STEPS = 20  # of the published description
REFERENCE_STEPS = 50  # what the table of steps is compared with
TRIED_STEPS = {"tiny": (1, 2, 4, 8, 20), "published": (4, 8, 12, 20)}
SHIPPED = {"tiny": ("ddim", 1), "published": ("dpm-solver++", 8)}
AT_ONCE = 8  # frames that ours paints together
COMPARED = 2  # frames whose pictures are compared
SOLVERS = {"ddim": sample_ddim, "dpm-solver++": sample_dpm_solver, "unipc": sample_unipc}
LEAST_DB = 45.0  # between pictures that should be equal


def avatar(options: Options, progress: Progress = silent) -> list[Row]:
    """
    Raises:
        UsageError: no such preset, or the full size without a GPU.
        VerificationError: pictures that should be equal are not.
    """
    presets = ("tiny", *PRESETS)
    if options.preset not in presets:
        raise UsageError(f"there is no preset {options.preset!r}", mend=f"choose one of: {', '.join(presets)}")
    if options.preset == "published" and options.device == "cpu":
        raise UsageError("a frame at full size takes a processor a quarter of an hour", mend="use published-small")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.no_grad(), progress.task("avatar", total=3) as task:
            rows = tiny(options, task) if options.preset == "tiny" else published(options, task)
    finally:
        torch.set_num_threads(before)
    return rows


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean over pictures [B, 3, H, W] in 0..1, dB; at most 100."""
    errors = (one.float() - other.float()).square().flatten(1).mean(1).clamp_min(1e-10)
    return float((-10 * errors.log10()).mean())


def agreement(plain: torch.Tensor, ours: torch.Tensor) -> Row:
    """
    Raises:
        VerificationError: they are further apart than `LEAST_DB`.
    """
    found = psnr(plain, ours)
    if not found >= LEAST_DB:
        raise VerificationError(f"pictures that should be equal are {found:.1f} dB apart, expected {LEAST_DB:g}")
    contrast = float(plain.float().flatten(1).std(1).mean())
    return Row(
        "agreement of both", None, found, "dB", None, f"at least {LEAST_DB:g}; the pictures' contrast is {contrast:.2f}"
    )


def step_rows(
    per_frame: Callable[[str, int], tuple[torch.Tensor, float]],
    tried: Sequence[int],
    truth: torch.Tensor | None,
    task,
) -> list[Row]:
    """What each sampler reaches in how many steps, beside the longest deterministic run; each timed once.

    Args:
        per_frame: (sampler, steps) -> pictures and seconds per frame.
    """
    reference, slow = per_frame("dpm-solver++", REFERENCE_STEPS)
    rows = []
    for sampler in SOLVERS:
        for steps in tried:
            pictures, seconds = per_frame(sampler, steps)
            note = f"{psnr(pictures, reference):.1f} dB to {REFERENCE_STEPS} steps"
            if truth is not None:
                note += f", {psnr(pictures, truth):.2f} to the truth"
            rows.append(Row(f"{sampler}, {steps} steps", slow, seconds, "s/frame", slow / seconds, note))
    if truth is not None:
        rows.append(
            Row(
                f"{REFERENCE_STEPS} steps", None, slow, "s/frame", None, f"{psnr(reference, truth):.2f} dB to the truth"
            )
        )
    task.advance()
    return rows


# The small avatar


def tiny(options: Options, task) -> list[Row]:
    ours = shipped_start()
    frames, truth = synthetic_frames(ours.resolution)
    return tiny_rows(ours, frames, truth, options, task)


def tiny_rows(ours: TinyAvatar, frames: Sequence, truth: torch.Tensor, options: Options, task) -> list[Row]:
    """Rows of any small avatar on frames with their true pictures [B, 3, H, W] in 0..1."""
    ours = ours.to(options.device).eval()
    plain = shipped_copy(ours)
    precision = Computing(options.device).prepare(ours)["precision"]
    frames = list(frames)[:AT_ONCE]
    truth, count = truth[:AT_ONCE].to(options.device), len(frames)
    noise = ours.noise(np.random.default_rng(0)).to(options.device)
    single = [plain.batch([frame]).to(options.device) for frame in frames]
    batch = ours.batch(frames).to(options.device)

    apart = torch.cat([plain_tiny(plain, one, noise) for one in single[:COMPARED]])
    together = ours.render(batch, noise, STEPS)
    rows = [agreement(apart, together[:COMPARED])]
    timed = in_turn(
        {"plain": lambda: plain_tiny(plain, single[0], noise), "ours": lambda: ours.render(batch, noise, STEPS)},
        options,
    )
    slow, fast = timed["plain"].median, timed["ours"].median / count
    how = f"{count} frames together, channels last, {precision}"
    rows.append(Row(f"{STEPS} steps, same sampler", slow, fast, "s/frame", slow / fast, how))
    task.advance()
    rows += tiny_parts(plain, ours, single[0], batch, noise, options)

    now = clock(options)

    def per_frame(sampler: str, steps: int) -> tuple[torch.Tensor, float]:
        start = now()
        pictures = tiny_pictures(ours, batch, noise, SOLVERS[sampler], steps)
        return pictures, (now() - start) / count

    sampler, steps = SHIPPED["tiny"]
    pictures, few = per_frame(sampler, steps)
    note = f"{psnr(pictures, truth):.2f} dB to the truth, {psnr(together, truth):.2f} with {STEPS} steps"
    rows.append(Row(f"as shipped: {steps} step, {sampler}", slow, few, "s/frame", slow / few, note))
    task.advance()
    return rows + step_rows(per_frame, TRIED_STEPS["tiny"], truth, task)


def shipped_start() -> TinyAvatar:
    """The small avatar's shipped weights, whatever sizes they have."""
    with as_file(files("davatar.assets") / "avatar" / "tiny-base.safetensors") as path:
        _, sizes = read_weights(path, "davatar tiny avatar base")
    settings = AvatarSettings(precision="float32", tiny=TinySettings(**sizes))
    return new_avatar(settings).eval()


def shipped_copy(avatar: TinyAvatar) -> TinyAvatar:
    """The same weights in the framework's own layout, 32 bits."""
    with torch.random.fork_rng(devices=[]):
        made = TinyAvatar(avatar.settings, avatar.training_settings)
    made.load_state_dict(avatar.state_dict())
    made.network.to(memory_format=torch.contiguous_format)
    return made.to(next(avatar.parameters()).device).eval()


def synthetic_frames(size: int, count: int = AT_ONCE) -> tuple[list, torch.Tensor]:
    """Frames of a synthetic head from several sides, and their true pictures [B, 3, H, W] in 0..1."""
    model = open_morphable()
    rig = Rig.arc(16, size=size)
    filming = Filming(Subject.sample(model, 1), rig.cameras[0], size)
    script = ExpressionScript.performance(model.expression_names, frames=count, seed=1, fps=count / 6)
    frames = []
    for t in range(count):
        weights, pose, camera = script.weights[t], script.head_to_world[t], rig.cameras[5 + t % 6]
        (picture,) = filming.pictures(weights, script.gaze[t], pose, [camera])
        frames.append(filming.maps(filming.mesh(weights, pose), weights, camera, picture, key=str(t)))
    truth = torch.from_numpy(np.stack([frame.image for frame in frames])).permute(0, 3, 1, 2).float() / 255
    return frames, truth


def plain_tiny(avatar: TinyAvatar, batch, noise: torch.Tensor, steps: int = STEPS) -> torch.Tensor:
    """One frame, everything but the texture look-up computed in every step."""
    features = torch.cat(
        [
            avatar.textures(points, who)
            for points, who in zip(batch.canonical.split(batch.counts), batch.identity, strict=True)
        ]
    )
    pictures = None

    def clean(latent: torch.Tensor, level: Level) -> Denoised:
        nonlocal pictures
        encoded = avatar.network.encode(features, batch)
        time = latent.new_full((len(latent),), level.time)
        pictures = avatar.network(encoded, latent, avatar.codec.unrotate(latent), time)
        found = avatar.codec.encode(pictures)
        return Denoised(found, to_noise(found, latent, level.signal, level.noise))

    sample_ddim(clean, noise, continuous_path(steps, power=2.0))
    return (pictures.clamp(-1, 1) + 1) / 2


def tiny_pictures(avatar: TinyAvatar, batch, noise: torch.Tensor, solver: Callable, steps: int) -> torch.Tensor:
    """Like the avatar's own `render`, with any sampler."""
    encoded = avatar.encode(batch)
    pictures = None

    def clean(latent: torch.Tensor, level: Level) -> Denoised:
        nonlocal pictures
        pictures = avatar.denoise(encoded, latent, latent.new_full((len(latent),), level.time))
        found = avatar.codec.encode(pictures)
        return Denoised(found, to_noise(found, latent, level.signal, level.noise))

    solver(clean, noise.expand(len(batch.counts), -1, -1, -1), continuous_path(steps, power=2.0))
    return (pictures.clamp(-1, 1) + 1) / 2


def tiny_parts(plain: TinyAvatar, ours: TinyAvatar, one, batch, noise: torch.Tensor, options: Options) -> list[Row]:
    """Where the time of a frame goes."""
    short = replace(options, seconds=options.seconds / 4)
    alone, encoded = plain.encode(one), ours.encode(batch)
    count = len(batch.counts)
    latents = noise.expand(count, -1, -1, -1).contiguous()
    half = [latents.new_full((n,), 0.5) for n in (1, count)]
    picture = plain.codec.unrotate(noise)
    encoder = in_turn({"plain": lambda: plain.encode(one), "ours": lambda: ours.encode(batch)}, short)
    network = in_turn(
        {
            "plain": lambda: plain.network(alone, noise, picture, half[0]),
            "ours": lambda: ours.denoise(encoded, latents, half[1]),
        },
        short,
    )
    rows = []
    for what, timed, plain_times, ours_times in (
        ("condition encoder", encoder, STEPS, 1),
        ("denoiser", network, STEPS, STEPS),
    ):
        slow, fast = plain_times * timed["plain"].median, ours_times * timed["ours"].median / count
        note = f"{plain_times} calls per frame, ours {ours_times}"
        rows.append(Row(f"of these: {what}", slow, fast, "s/frame", slow / fast, note))
    return rows


# The published avatar


def published(options: Options, task) -> list[Row]:
    plain = random_avatar(options.preset, options.device)
    gpu = torch.device(options.device).type == "cuda"
    ours = random_avatar(options.preset, options.device)  # the same seed: the same weights
    precision = Computing(options.device).prepare(ours)["precision"]
    if not gpu:
        for part in (ours.controlnet, ours.unet, ours.vae):
            part.to(memory_format=torch.channels_last)
    batch = random_batch(plain, AT_ONCE).to(options.device)
    single = rows_of(batch, slice(0, 1))
    noise = plain.noise(np.random.default_rng(0)).to(options.device)

    apart, together = plain_published(plain, single, noise), ours.render(batch, noise, STEPS)
    rows = [agreement(apart, together[:1])]
    ways = {"plain": lambda: plain_published(plain, single, noise), "ours": lambda: ours.render(batch, noise, STEPS)}
    timed = in_turn(ways, options, most=5)
    slow, fast = timed["plain"].median, timed["ours"].median / AT_ONCE
    how = f"{AT_ONCE} frames together, channels last, {precision}"
    rows.append(Row(f"{STEPS} steps, same sampler", slow, fast, "s/frame", slow / fast, how))
    if gpu:
        plain.autocast = torch.float16
        half = in_turn({"half": ways["plain"]}, options, most=3)["half"].median
        plain.autocast = None
        note = "plain, but under autocast, as the published script runs on a GPU"
        rows.append(Row(f"{STEPS} steps, same sampler", half, fast, "s/frame", half / fast, note))
    task.advance()
    rows += published_parts(plain, ours, single, batch, noise, options)

    now = clock(options)

    def per_frame(sampler: str, steps: int) -> tuple[torch.Tensor, float]:
        start = now()
        pictures = published_pictures(ours, batch, noise, sampler, steps)
        return pictures, (now() - start) / AT_ONCE

    sampler, steps = SHIPPED["published"]
    _, few = per_frame(sampler, steps)
    note = "what it costs in quality, random weights cannot say"
    rows.append(Row(f"fewer steps: {steps}, {sampler}", slow, few, "s/frame", slow / few, note))
    task.advance()
    return rows + step_rows(per_frame, TRIED_STEPS["published"], None, task)


def random_batch(avatar: PublishedAvatar, count: int) -> ImageBatch:
    """Smooth random maps in -1..1."""
    draw = torch.Generator().manual_seed(1)
    coarse = torch.rand((count, 9, 8, 8), generator=draw) * 2 - 1
    side = (avatar.resolution, avatar.resolution)
    rendered = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    return ImageBatch(
        rendered=rendered,
        mask=rendered[:, 0] > -0.3,
        expression=torch.randn((count, avatar.expression_size), generator=draw),
        participant=torch.zeros(count, dtype=torch.int64),
        image=None,
    )


def rows_of(batch: ImageBatch, rows: slice) -> ImageBatch:
    parts = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, **parts)


def plain_published(avatar: PublishedAvatar, batch: ImageBatch, noise: torch.Tensor) -> torch.Tensor:
    """One frame; the condition encoder, and keys and values of constant contexts, in every step."""
    generator = torch.Generator().manual_seed(VARIANCE_SEED)

    def draw() -> torch.Tensor:
        return torch.randn(noise.shape, generator=generator).to(noise)

    predict = avatar.denoiser(avatar.conditioning(batch), avatar.expression_codes_mlp(batch.expression))
    path = avatar.schedule.path(trailing_times(STEPS))
    return avatar.decode(sample_ancestral(as_denoiser(predict, avatar.prediction), noise, path, draw))


def published_pictures(
    avatar: PublishedAvatar, batch: ImageBatch, noise: torch.Tensor, sampler: str, steps: int
) -> torch.Tensor:
    """A deterministic sampler; second-order ones on levels that are even in log signal-to-noise ratio."""
    schedule = avatar.schedule
    path = schedule.path(trailing_times(steps)) if sampler == "ddim" else schedule.path_by_log_snr(steps)
    start = noise.expand(len(batch.rendered), -1, -1, -1)
    return avatar.decode(avatar.sample(batch, start, [path], lambda: noise, sampler))


def published_parts(
    plain: PublishedAvatar, ours: PublishedAvatar, one: ImageBatch, batch: ImageBatch, noise: torch.Tensor,
    options: Options,
) -> list[Row]:  # fmt: skip
    """Where the time of a frame goes."""
    short = replace(options, seconds=options.seconds / 4)
    count = len(batch.rendered)
    latents = noise.expand(count, -1, -1, -1).contiguous()
    maps = plain.conditioning(one), ours.conditioning(batch).to(ours.controlnet.dtype)
    times = [torch.full((n,), TIMES // 2, device=noise.device) for n in (1, count)]
    steps = [
        avatar.denoiser(embed(avatar.controlnet, found), avatar.expression_codes_mlp(told.expression))
        for avatar, found, told in zip((plain, ours), maps, (one, batch), strict=True)
    ]
    parts = {
        "condition encoder": (
            lambda: embed(plain.controlnet, maps[0]), lambda: embed(ours.controlnet, maps[1]), STEPS, 1
        ),
        "ControlNet and U-Net": (
            lambda: steps[0](noise, times[0]), lambda: steps[1](latents, times[1]), STEPS, STEPS
        ),
        "decoder": (lambda: plain.decode(noise), lambda: ours.decode(latents), 1, 1),
    }  # fmt: skip
    rows = []
    for what, (slowly, quickly, plain_times, ours_times) in parts.items():
        timed = in_turn({"plain": slowly, "ours": quickly}, short, most=5)
        slow, fast = plain_times * timed["plain"].median, ours_times * timed["ours"].median / count
        note = f"{plain_times} calls per frame, ours {ours_times}"
        rows.append(Row(f"of these: {what}", slow, fast, "s/frame", slow / fast, note))
    return rows
