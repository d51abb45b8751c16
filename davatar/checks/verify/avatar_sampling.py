"""Section E of the published avatar: noise schedule, losses and gradients, three training steps, sampling runs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from davatar.avatar.archive_scenes import archive_scene, image_batch
from davatar.avatar.published import ImageBatch, PublishedAvatar
from davatar.avatar.published_sampling import sampling_legs, trailing_times
from davatar.avatar.rendering import published_noise
from davatar.avatar.scenes import CameraMove, Shot
from davatar.checks.verify.avatar_data import data_of, splits_of
from davatar.checks.verify.avatar_fixtures import (
    GRADIENT,
    GREY_LEVELS,
    LATENTS,
    archive_config,
    avatar_of,
    companion,
    conditions_beside,
    holding,
    near,
    tensors,
)
from davatar.checks.verify.comparison import Check, Comparison
from davatar.checks.verify.fixture import device, read_arrays, read_json
from davatar.diffusion.schedule import NoiseSchedule

MOUTH_WEIGHT = 2.0  # of the fixture with a mouth loss, which does not store it


def check_schedule(path: Path) -> Iterator[Comparison]:
    wanted, avatar = read_arrays(path), avatar_of(path.parent)
    schedule = avatar.schedule
    for name in ("alphas_cumprod_train", "alphas_cumprod_ddpm"):
        yield near(path, name, schedule.alpha_bar, wanted[name])
    # The published betas are float32 quotients of numbers that fall to 2e-7.
    yield near(path, "betas", schedule.betas, wanted["betas_rescaled"], LATENTS)
    (name,) = (name for name in wanted if name.startswith("ddpm"))
    yield near(path, "table of a ddpm run", step_table(schedule, len(wanted[name])), wanted[name])


def step_table(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """[N, 7]: t, previous t, their squared signals, factors of clean sample and noisy sample, variance."""
    rows = []
    stride = len(schedule) // steps
    for here, after in sampling_legs("ddpm", steps, schedule, schedule, compat=True):
        kept = (here.signal / after.signal) ** 2
        variance = here.noise**2
        rows.append(
            [
                here.time,
                here.time - stride,
                here.signal**2,
                after.signal**2,
                after.signal * (1 - kept) / variance,
                kept**0.5 * after.noise**2 / variance,
                max((1 - kept) * after.noise**2 / variance, 1e-20),
            ]
        )
    return np.array(rows)


def _drawn(seed: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """VAE noise, noise and times as a training step draws them.

    The noise is drawn like the latents, whose channels lie innermost; torch takes other numbers for such an array.
    """
    generator = torch.Generator().manual_seed(seed)
    eta = torch.randn(shape, generator=generator)
    noise = torch.empty(shape, memory_format=torch.channels_last).normal_(generator=generator)
    return eta, noise, torch.randint(0, 1000, shape[:1], generator=generator)


def gradients(avatar: PublishedAvatar, batch: ImageBatch, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """The loss, and the gradient of every trained tensor under its published name."""
    avatar.zero_grad(set_to_none=True)
    loss = avatar.loss(batch, given["vae_eps"], given["noise"], given["timesteps"])
    loss.backward()
    found = {n.removeprefix("textures."): p.grad for n, p in avatar.named_parameters() if p.requires_grad}
    avatar.zero_grad(set_to_none=True)
    return loss.detach(), found


def check_loss(path: Path) -> Iterator[Comparison]:
    avatar, wanted, batch = avatar_of(path.parent), tensors(path), conditions_beside(path)
    if "seed" in wanted:
        drawn = _drawn(int(wanted["seed"]), wanted["noise"].shape)
        for name, found in zip(("vae_eps", "noise", "timesteps"), drawn, strict=True):
            yield near(path, f"{name} from the seed", found, wanted[name], 0)
    yield near(
        path,
        "latents of the pictures",
        avatar.encoded(batch.image) / avatar.vae.config.scaling_factor,
        wanted["latents_mean"],
    )
    loss, found = gradients(avatar, batch, wanted)
    yield near(path, "loss", loss, wanted["loss"])
    moved = sum(gradient is not None for gradient in found.values())
    yield near(path, "tensors with a gradient", moved, wanted["n_params_with_grad"], 0)
    for name, gradient in wanted.items():
        if name.startswith("grad:"):
            yield near(path, f"gradient of {name[5:]}", found[name[5:]], gradient, GRADIENT, relative=True)


def check_gradient_norms(path: Path) -> Iterator[Comparison]:
    """Norm of every gradient of the loss that lies beside."""
    wanted, source = read_json(path), companion(path, "vae_eps", "noise", "timesteps", "n_params_with_grad")
    _, found = gradients(avatar_of(path.parent), conditions_beside(path), tensors(source))
    yield near(path, "tensors without a counterpart", len(found.keys() ^ wanted.keys()), 0, 0)
    names = sorted(found.keys() & wanted.keys())
    own = [float(found[name].norm()) for name in names]
    yield near(path, f"{len(names)} gradient norms", own, [wanted[name] for name in names], GRADIENT, relative=True)


def _is_table_of_norms(path: Path) -> bool:
    if not path.name.startswith("E_") or path.suffix != ".json":
        return False
    try:
        found = read_json(path)
    except Exception:  # noqa: BLE001 - whatever is wrong with a foreign file, it is no such table
        return False
    numbers = isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())
    return numbers and any(name.startswith("controlnet.") for name in found)


def check_loss_variants(path: Path) -> Iterator[Comparison]:
    """Losses with changed settings; a variant's arrays share a prefix that ends in a colon."""
    wanted, batch = tensors(path), conditions_beside(path)
    for variant in sorted({name.partition(":")[0] for name in wanted}):
        given = {name.partition(":")[2]: x for name, x in wanted.items() if name.startswith(f"{variant}:")}
        mouth = "mask" in given
        avatar = copy.copy(avatar_of(path.parent))
        avatar.training_settings = replace(
            avatar.training_settings, use_vae_mean=not mouth, mouth_weight=MOUTH_WEIGHT if mouth else 0.0
        )
        told = replace(batch, mouth=given["mask"]) if mouth else batch
        with torch.no_grad():
            found = avatar.losses(told, given.get("vae_eps"), given["noise"], given["timesteps"])
        yield near(path, f"{variant}: loss", found["loss"], given["total"])
        for name, value in given.items():
            if name.endswith("_mouth_loss"):
                yield near(path, f"{variant}: mouth", found["mouth"], value)
            elif name.endswith("_loss"):
                yield near(path, f"{variant}: diffusion", found.get("diffusion", found["loss"]), value)


def check_training(path: Path) -> Iterator[Comparison]:
    """Steps of the three optimisers on one batch: losses, the clipped gradient's norm, tensors afterwards."""
    wanted, batch = tensors(path), conditions_beside(path)
    avatar = copy.deepcopy(avatar_of(path.parent))
    optimizers = avatar.optimizers()
    clip = archive_config(path.parent, "optimization_config").get("max_grad_norm", 1.0)
    if "lrs" in wanted:
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        yield near(path, "learning rates", rates, wanted["lrs"], 1e-12)
    losses, norms = [], []
    for k in range(len(wanted["losses"])):
        loss = avatar.loss(batch, wanted["vae_eps"][k], wanted["noise"][k], wanted["timesteps"][k])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(avatar.clipped(), clip)))
        losses.append(float(loss.detach()))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    yield near(path, f"losses of {len(losses)} steps", losses, wanted["losses"])
    expected = wanted["controlnet_grad_norm_before_clip"]
    yield near(path, "gradient norm of the ControlNet", norms, expected, GRADIENT, relative=True)
    state = {name.removeprefix("textures."): tensor for name, tensor in avatar.state_dict().items()}
    for name, tensor in wanted.items():
        if name.startswith("after"):
            own = name.partition(":")[2]
            yield near(path, f"after the steps: {own}", state[own], tensor)


@torch.no_grad()
def run_sampler(
    avatar: PublishedAvatar,
    batch: ImageBatch,
    wanted: dict[str, torch.Tensor],
    sampler: str,
    noises: torch.Tensor | None = None,
    prompt: torch.Tensor | None = None,
    guidance: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents after each step [N, B, 4, h, w], and the pictures [B, H, W, 3] 0..255."""
    legs = sampling_legs(sampler, int(wanted["n_steps"]), avatar.schedule, avatar.plain_schedule, compat=True)
    start = wanted["initial_noise"]
    seen: list[torch.Tensor] = []

    def watch(module: torch.nn.Module, inputs: tuple) -> None:
        seen.append(inputs[0][: len(start)])

    draws: Callable[[], torch.Tensor] = partial(next, iter(() if noises is None else noises))
    hook = avatar.controlnet.register_forward_pre_hook(watch)
    try:
        last = avatar.sample(batch, start, legs, draws, sampler, prompt, guidance)
    finally:
        hook.remove()
    pictures = (avatar.decode(last).permute(0, 2, 3, 1) * 255).round()
    return torch.stack([*seen[1:], last]), pictures


def check_random_run(path: Path) -> Iterator[Comparison]:
    """A ddpm run, guided by a prompt where the fixture names one."""
    avatar, wanted, batch = avatar_of(path.parent), tensors(path), conditions_beside(path)
    texts = {name: str(x) for name, x in read_arrays(path).items() if x.dtype.kind == "U"}
    seed = wanted.get("seed", archive_config(path.parent, "train_setup")["seed"])
    noises, generator = wanted["variance_noise"], torch.Generator().manual_seed(int(seed))
    drawn = torch.stack([torch.randn(noises.shape[1:], generator=generator) for _ in noises])
    yield near(path, "noise from the seed", drawn, noises, 0)
    prompt, guidance = None, 1.0
    if "prompt" in texts:
        prompt = avatar.encode(texts["prompt"])
        guidance = _guidance(avatar, batch, wanted, prompt)
    latents, pictures = run_sampler(avatar, batch, wanted, "ddpm", noises, prompt, guidance)
    label = f"ddpm, {len(noises)} steps" + (f", guidance {guidance:g}" if prompt is not None else "")
    yield from _run(path, label, latents, pictures, wanted)
    yield from _pictures_of_inputs(path, avatar, batch, wanted)


@torch.no_grad()
def _guidance(
    avatar: PublishedAvatar, batch: ImageBatch, wanted: dict[str, torch.Tensor], prompt: torch.Tensor
) -> float:
    """The guidance scale, which the fixture does not store: what explains the first of its steps, to 2 decimals."""
    here, after = sampling_legs("ddpm", int(wanted["n_steps"]), avatar.schedule, avatar.plain_schedule, True)[0]
    start, first = wanted["initial_noise"], wanted["latents_per_step"][0]
    times = torch.full((len(start),), here.time, device=start.device)
    conditioning, tokens = avatar.conditioning(batch), avatar.expression_codes_mlp(batch.expression)
    without = avatar.denoiser(conditioning, tokens)(start, times)
    told = avatar.denoiser(conditioning, tokens, prompt)(start, times)
    kept = (here.signal / after.signal) ** 2
    gain = after.signal * (1 - kept) / here.noise**2
    spread = ((1 - kept) * after.noise**2 / here.noise**2) ** 0.5
    mean = first - spread * wanted["variance_noise"][0] - kept**0.5 * after.noise**2 / here.noise**2 * start
    output = (here.signal * start - mean / gain) / here.noise
    apart = (told - without).double()
    return round(float(((output - without).double() * apart).sum() / apart.square().sum()), 2)


def check_deterministic_run(path: Path) -> Iterator[Comparison]:
    """A run without noise of its own; the file does not say by which sampler: the one that explains it best."""
    avatar, wanted, batch = avatar_of(path.parent), tensors(path), conditions_beside(path)
    runs = {name: run_sampler(avatar, batch, wanted, name) for name in ("ddim", "unipc")}
    name = min(runs, key=lambda name: float((runs[name][0] - wanted["latents_per_step"]).abs().max()))
    if "timesteps" in wanted:
        yield near(path, "times", trailing_times(int(wanted["n_steps"])), wanted["timesteps"], 0)
    yield from _run(path, f"{name}, {int(wanted['n_steps'])} steps", *runs[name], wanted)


def _run(
    path: Path, label: str, latents: torch.Tensor, pictures: torch.Tensor, wanted: dict[str, torch.Tensor]
) -> Iterator[Comparison]:
    yield near(path, f"latents of {label}", latents, wanted["latents_per_step"], LATENTS)
    yield near(path, f"pictures of {label}, grey levels", pictures, wanted["images"], GREY_LEVELS)


@torch.no_grad()
def _pictures_of_inputs(
    path: Path, avatar: PublishedAvatar, batch: ImageBatch, wanted: dict[str, torch.Tensor]
) -> Iterator[Comparison]:
    """Textures and noise as the published system shows them: a third of their values, clipped, as bytes."""
    conditioning, ambient = avatar.conditioning(batch), avatar.settings.texture_features
    shown = {
        "neural_textured_rendering_u8": conditioning[:, avatar.settings.rendered_channels : -ambient],
        "ambient_u8": conditioning[:, -ambient:],
        "latent_noise_u8": wanted["initial_noise"],
    }
    for name in shown.keys() & wanted.keys():
        values = ((shown[name] / 3).clamp(-1, 1) + 1) / 2 * 255
        yield near(path, f"{name}, grey levels", values.round().permute(0, 2, 3, 1), wanted[name], 1)


@torch.no_grad()
def check_render_script(path: Path) -> Iterator[Comparison]:
    """Frames of the render script: what the avatar is told along the camera path, and what it paints.

    The script's file names tell the path's numbers.
    """
    wanted, avatar, data = read_arrays(path), avatar_of(path.parent), data_of(path.parent)
    names = [str(name) for name in wanted["relative_paths"]]
    move = CameraMove(
        distance=_told(names[0], "distance", 1.0),
        shake=_told(names[0], "shake", 0.3),
        move_y=_told(names[0], "move-y", 0.02),
        curve_z=_told(names[0], "curve_z", 0.02),
        period=_told(names[0], "freq", 40.0),
    )
    camera = names[0].split("/")[1]
    held = splits_of(path.parent)["VALID_HOLD_OUT_SEQ"]
    sequence = list(dict.fromkeys(key.sequence for key in held))[int(_told(names[0], "test-sequence", 0))]
    size = avatar.resolution
    shot = Shot(sequence, camera, move)
    scene = archive_scene(data, data.raw, size, avatar.expression_size, shot, compat=True)
    frames = [scene.read(index) for index in range(len(scene))]
    shown = (np.stack([frame.rendered for frame in frames]).transpose(0, 2, 3, 1) + 1) / 2
    for name, channels in {"depths": [0], "uv": [1, 2, 3], "normals": [4, 5, 6], "uv_ambient": [7, 8]}.items():
        expected = wanted[name].reshape(*wanted[name].shape[:3], -1)[..., : len(channels)]
        yield near(path, f"{camera}: {name}", shown[..., channels], expected)
    yield near(path, f"{camera}: mask", [frame.mask for frame in frames], wanted["mask"] > 0.75, 0)
    batch = image_batch(frames).to(device())
    planes = avatar.conditioning(batch)[:, : -avatar.settings.texture_features][:, -3:]
    bytes_of = (((planes / 3).clamp(-1, 1) + 1) / 2 * 255).round().permute(0, 2, 3, 1)
    yield near(path, f"{camera}: textures, grey levels", bytes_of, wanted["neural_textured_rendering"], 1)
    seed = int(_told(names[-1], "seed", archive_config(path.parent, "train_setup")["seed"]))
    noise = published_noise(avatar, seed)
    steps = int(_told(names[-1], "inference-steps", 20))
    painted = avatar.render(batch, noise.to(device()), steps).permute(0, 2, 3, 1) * 255
    label = f"{camera}: pictures, {steps} steps, grey levels"
    yield near(path, label, painted.round(), wanted["generations"], GREY_LEVELS)


def _told(name: str, key: str, default: float) -> float:
    """A number in one of the script's file names: `..._distance-0.24_...`."""
    found = re.search(rf"(?:^|_){re.escape(key)}-(-?\d+(?:\.\d+)?)(?=_|\.mp4)", name)
    return float(found[1]) if found else default


RUN = ("n_steps", "initial_noise", "latents_per_step", "images")

CHECKS: tuple[Check, ...] = (
    Check("diffusion-avatars E", holding("E", "alphas_cumprod_train", "betas_rescaled"), check_schedule),
    Check("diffusion-avatars E", holding("E", "vae_eps", "loss", "n_params_with_grad"), check_loss),
    Check("diffusion-avatars E", _is_table_of_norms, check_gradient_norms),
    Check("diffusion-avatars E", holding("E", "mouth:total", "vae_mean:total"), check_loss_variants),
    Check("diffusion-avatars E", holding("E", "losses", "controlnet_grad_norm_before_clip"), check_training),
    Check("diffusion-avatars E", holding("E", *RUN, "variance_noise"), check_random_run),
    Check("diffusion-avatars E", holding("E", "relative_paths", "generations", "depths"), check_render_script),
    Check("diffusion-avatars E", holding("E", *RUN, without=("variance_noise",)), check_deterministic_run),
)
