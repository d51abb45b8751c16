"""The CPU avatar: minutes of training on tracked frames, and its pictures.

    x_t = signal(t) latent + noise(t) epsilon, continuous cosine; t = 1 is noise alone

The network's output means the clean picture (x0). After each sampling step it is encoded again, so the
codec never limits the result: the last clean picture is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from davatar.avatar.codec import PatchCodec
from davatar.avatar.conditioning import HeadMaps, PointBatch, point_batch
from davatar.avatar.draws import Draws
from davatar.avatar.texture import Triplanes
from davatar.avatar.tiny_network import Encoded, TinyNetwork, TinySettings
from davatar.avatar.weights import load_into, read_weights
from davatar.diffusion.parameterization import Denoised, add_noise, to_noise
from davatar.diffusion.samplers import sample_ddim
from davatar.diffusion.schedule import Level, continuous_cosine, continuous_path

BASE_KIND = "davatar tiny avatar base"
NOISE_RANGE = (0.04, 20.0)  # noise-to-signal ratios seen in training besides pure noise, in latent units


@dataclass(frozen=True)
class TinyTraining:
    """How the small avatar learns."""

    network_rate: float = 2e-3  # Adam's step for the network from scratch
    base_rate: float = 1e-3  # the same from a base
    token_rate: float | None = None  # for what reads the expression tokens; None = as the rest of the network
    plane_rate: float = 2e-2
    warm_up: int = 20  # steps
    final_rate: float = 0.02  # share of the rates at the end of the cosine
    pure_noise: float = 0.7  # share of samples at t = 1: what a picture in one step rests on
    face_weight: float = 4.0  # of the squared error in eye and mouth boxes
    regression: bool = False  # t fixed to 1: one step from the conditioning to the picture


class TinyAvatar(nn.Module):
    kind = "davatar tiny avatar"
    told = "weights"

    def __init__(self, settings: TinySettings, training: TinyTraining, people: int = 1):
        super().__init__()
        self.settings, self.training_settings = settings, training
        self.network_rate = training.network_rate
        self.textures = Triplanes(people, settings.plane_channels, settings.plane_size)
        self.network = TinyNetwork(settings).to(memory_format=torch.channels_last)
        self.codec = PatchCodec()
        self.started = False  # from a base or another avatar
        self.autocast: torch.dtype | None = None  # half precision inside the network; `precision.choose` decides

    @property
    def resolution(self) -> int:
        return self.settings.resolution

    @property
    def expression_size(self) -> int:
        return self.settings.expression_size

    def batch(self, frames: Sequence[HeadMaps], identity: list[int] | None = None) -> PointBatch:
        """
        Raises:
            DataError: a frame of another size or expression length than the network's.
        """
        return point_batch(frames, self.resolution, self.expression_size, identity, self.training_settings.face_weight)

    def lighten(self) -> None:
        """Everything here is learnt."""

    def compile_denoiser(self, **options: Any) -> None:
        """See `avatar.compiling`; what is computed once per frame stays as it is."""
        self.network.compile(**options)

    def compute_in(self, precision: torch.dtype) -> None:
        """For rendering: inside the network; weights stay float32."""
        self.autocast = None if precision == torch.float32 else precision

    def prepare(self, frames: Sequence[HeadMaps]) -> None:
        """Fit the codec to training pictures, unless it came with a start."""
        if self.started:
            return
        pictures = np.stack([maps.image for maps in frames])
        self.codec.fit(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a base or of another small avatar; the network then learns at the lower rate."""
        tensors, _ = read_weights(path, (BASE_KIND, self.kind), self.sizes())
        self.load_trained(tensors, path)
        self.started, self.network_rate = True, self.training_settings.base_rate

    def sizes(self) -> dict[str, Any]:
        return asdict(self.settings)

    def trained_state(self) -> dict[str, torch.Tensor]:
        return self.state_dict()

    def load_trained(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        load_into(self, tensors, path)

    def clipped(self) -> list[nn.Parameter]:
        """The parameters whose gradient norm is limited."""
        return list(self.parameters())

    def parameter_groups(self) -> list[dict]:
        """For one Adam: the network's and the planes' parameters with their rates at full height."""
        settings = self.training_settings
        tokens = [] if settings.token_rate is None else self.network.token_parameters()
        rest = [parameter for parameter in self.network.parameters() if all(parameter is not one for one in tokens)]
        groups = [(rest, self.network_rate), (self.textures.parameters(), settings.plane_rate)]
        if tokens:
            groups.append((tokens, settings.token_rate))
        return [{"params": list(params), "lr": rate, "rate": rate} for params, rate in groups]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.parameter_groups(), betas=(0.9, 0.99), fused=True)]

    def rate(self, step: int, done: float) -> float:
        """Share of the full rate at a step (from 0), `done` of the budget (0..1) being used."""
        settings = self.training_settings
        cosine = settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * min(done, 1))) / 2
        return cosine * min((step + 1) / settings.warm_up, 1.0)

    def noise(self, rng: np.random.Generator, count: int = 1) -> torch.Tensor:
        """[count, 48, h, w] unit noise; drawn by numpy, which is faster on a CPU than torch."""
        side = self.resolution // 4
        return torch.from_numpy(rng.standard_normal((count, 48, side, side), dtype=np.float32))

    def draw_times(self, count: int, rng: np.random.Generator) -> torch.Tensor:
        """[count] training times in 0..1."""
        low, high = np.log(NOISE_RANGE)
        ratio = np.exp(rng.uniform(low, high, count))
        pure = rng.uniform(size=count) < self.training_settings.pure_noise
        if self.training_settings.regression:
            pure[:] = True
        return torch.from_numpy(np.where(pure, 1.0, np.arctan(ratio) * 2 / np.pi).astype(np.float32))

    def encode(self, batch: PointBatch) -> Encoded:
        """What does not depend on the noise."""
        found = [
            self.textures(points, identity)
            for points, identity in zip(batch.canonical.split(batch.counts), batch.identity, strict=True)
        ]
        with torch.autocast(batch.coverage.device.type, self.autocast, enabled=self.autocast is not None):
            return self.network.encode(torch.cat(found), batch)

    def denoise(self, encoded: Encoded, latent: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Noisy latent [B, 48, h, w] at t [B] -> clean picture [B, 3, H, W] in -1..1, float32."""
        latent = latent.contiguous(memory_format=torch.channels_last)
        picture = self.codec.unrotate(latent).contiguous(memory_format=torch.channels_last)
        with torch.autocast(latent.device.type, self.autocast, enabled=self.autocast is not None):
            return self.network(encoded, latent, picture, t).float()

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Times in 0..1 and noise for `count` frames."""
        return Draws(self.draw_times(count, rng), self.noise(rng, count))

    def frame_losses(self, batch: PointBatch, draws: Draws) -> dict[str, torch.Tensor]:
        """
        Returns:
            loss: the mean of `losses`.
            losses: [B] weighted squared error of each picture (-1..1).
            levels: [B] noise level of each, 0..1.
        """
        with torch.no_grad():
            signal, scale = (x[:, None, None, None] for x in continuous_cosine(draws.time))
            # cos(pi / 2) is not exactly 0 in float32, and nothing of the picture may leak at t = 1.
            signal = torch.where(scale == 1, 0.0, signal)
            latent = add_noise(self.codec.encode(batch.image), draws.noise, signal, scale)
        error = (self.denoise(self.encode(batch), latent, draws.time) - batch.image).square().mean(1, keepdim=True)
        weighted = error * batch.weight
        return {"loss": weighted.mean(), "losses": weighted.mean((1, 2, 3)), "levels": draws.time}

    forward = frame_losses  # so that a distributed wrapper's hooks run

    def train_step(self, batch: PointBatch, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """`frame_losses` of one draw for the whole batch."""
        return self.frame_losses(batch, self.draw(len(batch.counts), rng).to(batch.coverage.device))

    @torch.no_grad()
    def render(self, batch: PointBatch, noise: torch.Tensor, steps: int = 1) -> torch.Tensor:
        """Sample pictures.

        Args:
            batch: frames as `batch` packs them; their pictures are not looked at.
            noise: [1 or B, 48, h, w] where sampling starts; one noise for all frames keeps a video calm.
            steps: 1 for the smallest error, 5 for the most detail.

        Returns:
            [B, 3, H, W] float32 in 0..1.
        """
        encoded = self.encode(batch)
        pictures = None

        def clean(latent: torch.Tensor, level: Level) -> Denoised:
            nonlocal pictures
            pictures = self.denoise(encoded, latent, latent.new_full((len(latent),), level.time))
            found = self.codec.encode(pictures)
            return Denoised(found, to_noise(found, latent, level.signal, level.noise))

        start = noise.to(batch.coverage).expand(len(batch.counts), -1, -1, -1)
        sample_ddim(clean, start, continuous_path(steps, power=2.0))
        return (pictures.clamp(-1, 1) + 1) / 2
