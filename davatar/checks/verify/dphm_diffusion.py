"""Section C: noise schedules, losses, samplers and the prior's pull (spec dphm 4.2-4.4, 6.4).

The originals ran in float32 with buffers rounded to float32. Ill-conditioned ends (a clean sample from pure noise,
noise from an almost clean sample) are compared relative to the largest value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from davatar.checks.verify.comparison import Check, Comparison, compare
from davatar.checks.verify.dphm_unet import network_beside, network_shapes
from davatar.checks.verify.fixture import array, described, holds, read_arrays, read_weights, tensor
from davatar.diffusion.loss import item_losses, training_loss
from davatar.diffusion.parameterization import PredictionType, add_noise, loss_weights, to_noise
from davatar.diffusion.samplers import as_denoiser, sample_ancestral, sample_ddim
from davatar.diffusion.schedule import Level, NoiseSchedule, named_schedule
from davatar.prior.guidance import guidance
from davatar.prior.normalization import RangeNormalization
from davatar.prior.unet import UNet1d

OBJECTIVES: dict[str, PredictionType] = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
ROUNDING = 1e-6  # of what is computed in float32 step by step
BUFFERS = 1e-5  # relative
LOSSES = 2e-5  # relative
GRADIENTS = 1e-4  # relative
ILL_CONDITIONED = 1e-4  # relative; by 1 - signal² near 0 or signal near 0 the float32 schedule itself is off by this
CHAINS = 1e-4


def buffers(schedule: NoiseSchedule) -> dict[str, np.ndarray]:
    """[T] float64 each: what the originals keep of a schedule, under their names."""
    bar, betas = schedule.alpha_bar, schedule.betas
    before = np.concatenate([[1.0], bar[:-1]])
    variance = betas * (1 - before) / (1 - bar)
    return {
        "betas": betas,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": schedule.signal,
        "sqrt_one_minus_alphas_cumprod": schedule.noise,
        "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "sqrt_recip_alphas_cumprod": 1 / schedule.signal,
        "sqrt_recipm1_alphas_cumprod": schedule.noise / schedule.signal,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - bar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - bar),
    }


class _Fixture:
    def __init__(self, path: Path):
        self.name, self.arrays = path.name, read_arrays(path)
        about = described(self.arrays)
        self.schedule = named_schedule(about["schedule"], about["T"])
        self.network = _network(path, about).requires_grad_(True)
        self.range = RangeNormalization(*(float(self.arrays[k]) for k in ("minimum", "maximum")), about["L"])

    def __getitem__(self, name: str) -> Tensor:
        return tensor(self.arrays[name])

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def compare(self, quantity: str, found: Tensor | np.ndarray, key: str, tolerance: float, relative=False):
        value = array(found) if isinstance(found, Tensor) else found
        return compare(self.name, quantity, value, self.arrays[key], tolerance, relative)


def _network(path: Path, about: Mapping[str, Any]) -> UNet1d:
    """The stored U-Net of the same seed and widths in the folder, else the recipe's."""
    for other in sorted(path.parent.glob("C_*.safetensors")):
        source = other.with_suffix(".npz")
        if source.is_file() and described(read_arrays(source)).get("seed") == about.get("seed"):
            weights = read_weights(other)
            if {key: tuple(value.shape) for key, value in weights.items()} == network_shapes(about["net"]):
                return network_beside(source, about)
    return network_beside(path, about)


def _diffusion(path: Path) -> Iterator[Comparison]:
    fixture = _Fixture(path)
    yield from _schedules(fixture)
    clean = fixture.range.normalise(fixture["latent"])
    yield fixture.compare("normalised codes", clean, "normalized", ROUNDING)
    yield fixture.compare("codes from normalised", fixture.range.denormalise(clean), "unnormalized", ROUNDING)
    noisy = add_noise(clean, fixture["noise"], *fixture.schedule.at(fixture["t"], clean))
    yield fixture.compare("noised codes", noisy, "q_sample", ROUNDING)
    for objective, prediction in OBJECTIVES.items():
        if f"train_loss_{objective}" in fixture:
            yield from _training(fixture, objective, prediction, clean)
            with torch.no_grad():
                yield from _predictions(fixture, objective, prediction)
                yield from _steps(fixture, objective, prediction)
                yield from _chains(fixture, objective, prediction)
            yield from _pulls(fixture, objective, prediction)


def _schedules(fixture: _Fixture) -> Iterator[Comparison]:
    for name, values in buffers(fixture.schedule).items():
        if f"buf_{name}" in fixture:
            label = f"schedule: {name.replace('_', ' ')}"
            yield fixture.compare(label, values.astype(np.float32), f"buf_{name}", BUFFERS, relative=True)
    for objective, prediction in OBJECTIVES.items():
        if f"loss_weight_{objective}" in fixture:
            weights, key = loss_weights(fixture.schedule, prediction), f"loss_weight_{objective}"
            yield fixture.compare(f"loss weights, {objective}", weights, key, ILL_CONDITIONED, relative=True)
    for key in fixture.arrays:
        kind, _, steps = key.removeprefix("betas_").rpartition("_")
        if key.startswith("betas_") and kind in ("cosine", "linear") and steps.isdigit():
            betas = named_schedule(kind, int(steps)).betas
            yield fixture.compare(f"betas, {kind} of {steps}", betas, key, 1e-12)


def _training(fixture: _Fixture, objective: str, prediction: PredictionType, clean: Tensor) -> Iterator[Comparison]:
    parts = fixture.network, fixture.schedule, prediction, clean, fixture["t"], fixture["noise"]
    each = item_losses(*parts)
    yield fixture.compare(f"loss of each item, {objective}", each, f"train_loss_each_{objective}", LOSSES, True)
    loss = training_loss(*parts)
    yield fixture.compare(f"training loss, {objective}", loss, f"train_loss_{objective}", LOSSES, True)
    layers = ("init_conv", "final_conv")
    weights = [getattr(fixture.network, layer).weight for layer in layers]
    for layer, gradient in zip(layers, torch.autograd.grad(loss, weights), strict=True):
        key = f"train_grad_{layer}_{objective}"
        yield fixture.compare(f"gradient of {layer}, {objective}", gradient, key, GRADIENTS, True)


def _predictions(fixture: _Fixture, objective: str, prediction: PredictionType) -> Iterator[Comparison]:
    """What the network's output claims, item by item at its own time."""
    schedule, noisy = fixture.schedule, fixture["q_sample"]
    levels = [Level(t, float(schedule.signal[t]), float(schedule.noise[t])) for t in fixture.arrays["t"].tolist()]
    for clip in (None, 1.0):
        denoise = as_denoiser(fixture.network, prediction, clip)
        found = [denoise(noisy[k : k + 1], level) for k, level in enumerate(levels)]
        end = f"clip{int(clip is not None)}_{objective}"
        clamped = "clamped" if clip else "free"
        for part, key in (("clean", f"pred_x_start_{end}"), ("noise", f"pred_noise_{end}")):
            value = torch.cat([getattr(one, part) for one in found])
            yield fixture.compare(f"{part} codes, {clamped}, {objective}", value, key, ILL_CONDITIONED, True)
    again = [
        to_noise(one.clean, noisy[k : k + 1], level.signal, level.noise)
        for k, (one, level) in enumerate(zip(found, levels, strict=True))
    ]
    key = f"pred_noise_rederived_{objective}"
    yield fixture.compare(f"noise from clamped codes, {objective}", torch.cat(again), key, ILL_CONDITIONED, True)


def _steps(fixture: _Fixture, objective: str, prediction: PredictionType) -> Iterator[Comparison]:
    """One ancestral step from the noised codes, all items at one time."""
    denoise, noisy = as_denoiser(fixture.network, prediction, clip=1.0), fixture["q_sample"]
    noise = fixture["noise"].flip(0)
    for key in sorted(fixture.arrays):
        if key.startswith("p_sample_t") and key.endswith(f"_{objective}"):
            t = int(key.removeprefix("p_sample_t").split("_")[0])
            path = fixture.schedule.path([t, t - 1][: t + 1])[:2]
            found = sample_ancestral(denoise, noisy, path, lambda: noise)
            yield fixture.compare(f"ancestral step at {t}, {objective}", found, key, CHAINS)
        if key.startswith("p_sample_xstart_t") and key.endswith(f"_{objective}"):
            t = int(key.removeprefix("p_sample_xstart_t").split("_")[0])
            clean = denoise(noisy, fixture.schedule.path([t])[0]).clean
            yield fixture.compare(f"clean codes of the step at {t}, {objective}", clean, key, CHAINS)


def _chains(fixture: _Fixture, objective: str, prediction: PredictionType) -> Iterator[Comparison]:
    denoise = as_denoiser(fixture.network, prediction, clip=1.0)
    for key in sorted(fixture.arrays):
        if key.startswith("ddim_eta") and key.endswith(f"_{objective}"):
            eta, noises = float(key.removeprefix("ddim_eta").split("_")[0]), iter(fixture["ddim_noise"])
            path = fixture.schedule.path_of(len(fixture.arrays["ddim_noise"]))
            found = sample_ddim(denoise, fixture["ddim_start"], path, eta, lambda source=noises: next(source))
            label = f"DDIM chain, eta {eta:g}, {objective}"
            yield fixture.compare(label, fixture.range.denormalise(found), key, CHAINS)
        steps = key.removeprefix("ancestral").split("_")[0]
        if key == f"ancestral{steps}_{objective}":
            noises, short = iter(fixture[f"ancestral{steps}_noise"]), named_schedule("cosine", int(steps))
            start, path = fixture[f"ancestral{steps}_start"], short.path_of(int(steps))
            found = sample_ancestral(denoise, start, path, lambda source=noises: next(source))
            label = f"ancestral chain of {steps}, {objective}"
            yield fixture.compare(label, fixture.range.denormalise(found), key, CHAINS)


def _pulls(fixture: _Fixture, objective: str, prediction: PredictionType) -> Iterator[Comparison]:
    """The prior's value and its gradient by the codes."""
    codes, noise = fixture["latent"][:, 0], fixture["noise"][:, 0]
    for key in sorted(fixture.arrays):
        if not (key.startswith("prior_skip") and key.endswith(f"_{objective}")):
            continue
        skip, scale = key.removesuffix(f"_{objective}").removeprefix("prior_skip").split("_gs")
        mode = "score" if skip == "1" else "denoise"
        parts = fixture.network, fixture.schedule, prediction, fixture.range, codes, fixture["t"], noise
        value, gradient = guidance(*parts, mode, float(scale))
        label = f"{mode} x {scale}, {objective}"
        yield fixture.compare(f"prior value, {label}", value, key, LOSSES, True)
        expected = key.replace("prior_skip", "prior_grad_skip")
        yield fixture.compare(f"prior gradient, {label}", gradient[:, None], expected, GRADIENTS, True)


CHECKS = (Check("dphm C", lambda path: holds(path, "C", {"latent", "noise", "t", "q_sample", "minimum"}), _diffusion),)
