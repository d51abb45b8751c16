"""The published avatar: a ControlNet and expression tokens steer a frozen latent diffusion model (spec 5 - 7).

    maps -> textures -> 9 + 64 channels -> ControlNet -> residuals of the frozen U-Net on 1/8-size latents
    code -> tokens -> added attention in the U-Net;   v-prediction, zero terminal SNR

Section numbers are those of spec diffusion-avatars. Trained tensors bear the published names. Pictures
are in -1..1 inside and 0..1 outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, ControlNetModel
from torch import nn

from davatar.avatar.adam import adamw
from davatar.avatar.attention import set_attention
from davatar.avatar.conditioning import HeadMaps, rendered_conditions
from davatar.avatar.draws import Draws
from davatar.avatar.expression_block import TOKENS, add_expression_attention
from davatar.avatar.frozen_base import FrozenBase, encode_prompt, load_base
from davatar.avatar.hoisting import Embedded, accept_embedded, embed, kept_contexts
from davatar.avatar.latents import LatentMemory
from davatar.avatar.published_sampling import TIMES, sampling_legs, walk
from davatar.avatar.published_settings import PublishedSettings, PublishedTraining
from davatar.avatar.texture import PlaneTextures
from davatar.avatar.tokens import ExpressionTokens
from davatar.avatar.weights import check_fit, read_weights
from davatar.core.errors import DataError
from davatar.diffusion.parameterization import add_noise, target
from davatar.diffusion.samplers import as_denoiser
from davatar.diffusion.schedule import Level, scaled_linear_schedule

FACTOR = 8  # picture pixels per latent pixel
DECODED_AT_ONCE = 4  # pictures
VARIANCE_SEED = 181998  # of the noise that sampling adds


@dataclass(frozen=True)
class ImageBatch:
    rendered: torch.Tensor  # [B, 9, H, W] depth, canonical, normals, ambient; -1..1
    mask: torch.Tensor  # [B, H, W] bool
    expression: torch.Tensor  # [B, De]
    participant: torch.Tensor  # [B] int64
    image: torch.Tensor | None  # [B, 3, H, W] in -1..1
    mouth: torch.Tensor | None = None  # [B, H, W] bool, inside of the mouth and lips
    keys: tuple[str, ...] = ()  # [B] names of the pictures, by which their latents are kept

    def to(self, device: torch.device | str) -> ImageBatch:
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)})


class PublishedAvatar(nn.Module):
    kind = "davatar published avatar"
    told = "codes"

    def __init__(self, settings: PublishedSettings, training: PublishedTraining, base: FrozenBase):
        super().__init__()
        self.settings, self.training_settings = settings, training
        self.unet, self.vae = base.unet, base.vae
        self.controlnet = ControlNetModel.from_unet(base.unet, conditioning_channels=settings.condition_channels)
        accept_embedded(self.controlnet)
        add_expression_attention(self.unet)
        self.textures = PlaneTextures(settings.participants, settings.texture_size, settings.texture_features)
        width = base.unet.config.cross_attention_dim
        self.expression_codes_mlp = ExpressionTokens(settings.expression_size, settings.tokens, width)
        self.register_buffer("empty_prompt", base.empty_prompt.clone(), persistent=False)
        self.autocast: torch.dtype | None = None  # half precision inside ControlNet and U-Net
        self.latents: LatentMemory | None = None  # of training pictures
        self.preview_decoder: AutoencoderTiny | None = None  # in the VAE's place, for rendering
        self.compiled = False
        self.place = base.place
        self.prediction = "sample" if settings.predict_x0 else base.prediction
        self.plain_schedule = scaled_linear_schedule(TIMES, *base.betas, zero_terminal_snr=False)
        self.schedule = scaled_linear_schedule(TIMES, *base.betas, zero_terminal_snr=settings.zero_terminal_snr)
        self.controlnet.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_("_expression_attention" in name)

    @classmethod
    def from_settings(cls, settings: PublishedSettings, training: PublishedTraining) -> PublishedAvatar:
        """
        Raises:
            MissingError: the frozen base is not on this machine.
        """
        return cls(settings, training, load_base(settings.base, settings.revision))

    @property
    def resolution(self) -> int:
        return self.settings.resolution

    @property
    def expression_size(self) -> int:
        return self.settings.expression_size

    def batch(self, frames: Sequence[HeadMaps]) -> ImageBatch:
        """
        Raises:
            DataError: a frame of another size or expression length than the avatar's.
        """
        side = self.resolution
        for maps in frames:
            if maps.size != (side, side):
                raise DataError(f"{maps.key}: frame is {maps.size[1]}x{maps.size[0]}, the avatar paints {side}")
            if len(maps.expression) != self.expression_size:
                raise DataError(
                    f"{maps.key}: expression has {len(maps.expression)} numbers, the avatar takes "
                    f"{self.expression_size}",
                    mend=f"train with --set published.expression_size={len(maps.expression)}",
                )
        image = None
        if all(maps.image is not None for maps in frames):
            stacked = torch.from_numpy(np.stack([maps.image for maps in frames]))
            image = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
        return ImageBatch(
            rendered=torch.from_numpy(np.stack([rendered_conditions(maps) for maps in frames])),
            mask=torch.from_numpy(np.stack([maps.mask for maps in frames])),
            expression=torch.from_numpy(np.stack([maps.expression for maps in frames])),
            participant=torch.zeros(len(frames), dtype=torch.int64),
            image=image,
            keys=tuple(maps.key for maps in frames),
        )

    def conditioning(self, batch: ImageBatch) -> torch.Tensor:
        """[B, 9 + 4 D, H, W]: rendered maps, then the features of the planes, then of the ambient plane (3.8)."""
        canonical, ambient = batch.rendered[:, 1:4], batch.rendered[:, 7:9]
        neural, hidden = self.textures(canonical, ambient, batch.mask, batch.participant)
        return torch.cat([batch.rendered, neural, hidden], 1)

    def denoiser(
        self,
        conditioning: torch.Tensor | Embedded,
        tokens: torch.Tensor,
        prompt: torch.Tensor | None = None,
        guidance: float = 1.0,
    ) -> Callable:
        """The network as a function of noisy latents [B, 4, h, w] and times [B].

        Args:
            conditioning: [B, C, H, W], or what the condition encoder made of it.
            prompt: [1, 77, Dt] hidden state of a text; None = of the empty one, which the avatar was trained with.
            guidance: above 1, the output is led away from that of the empty text; takes twice the time.
        """
        count, led, inside = len(tokens), guidance > 1, self.controlnet.dtype
        tokens, empty = tokens.to(inside), self.empty_prompt.to(inside)
        text = (empty if prompt is None else prompt.to(inside)).expand(count, -1, -1)
        if led:
            text = torch.cat([empty.expand(count, -1, -1), text])
            tokens = torch.cat([tokens, tokens])
            if isinstance(conditioning, Embedded):
                conditioning = Embedded(torch.cat([conditioning.maps] * 2))
            else:
                conditioning = torch.cat([conditioning] * 2)

        def predict(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if led:
                noisy, t = torch.cat([noisy, noisy]), torch.cat([t, t])
            with torch.autocast(noisy.device.type, self.autocast, enabled=self.autocast is not None):
                given = noisy.to(inside).contiguous()  # one layout in every step: a compiled network is made for it
                down, middle = self.controlnet(given, t, text, conditioning, return_dict=False)
                output = self.unet(
                    given,
                    t,
                    text,
                    cross_attention_kwargs={TOKENS: tokens},
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=middle,
                ).sample.to(noisy.dtype)
            if not led:
                return output
            without, told = output.chunk(2)
            return without + guidance * (told - without)

        return predict

    def encode(self, prompt: str) -> torch.Tensor:
        """[1, 77, Dt] hidden state of a text; loads the base's text encoder.

        Raises:
            MissingError: the base has none, or `transformers` is not installed.
        """
        return encode_prompt(self.place, prompt).to(self.empty_prompt)

    def losses(
        self, batch: ImageBatch, eta: torch.Tensor | None, noise: torch.Tensor, t: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The loss and its parts where it has several (6.1), the [B] losses of the frames and their noise levels.

        Args:
            eta: [B, 4, h, w] samples the VAE; not looked at with `use_vae_mean`.
            noise, t: [B, 4, h, w] and [B], of the diffusion.
        """
        clean = self.encoded(batch.image, None if self.training_settings.use_vae_mean else eta, batch.keys)
        signal, scale = self.schedule.at(t, clean)
        predict = self.denoiser(self.conditioning(batch), self.expression_codes_mlp(batch.expression))
        output = predict(add_noise(clean, noise, signal, scale), t)
        squared = (output - target(self.prediction, clean, noise, signal, scale)).square()
        parts = {"diffusion": squared.mean()}
        each = squared.mean((1, 2, 3))
        if self.training_settings.mouth_weight and batch.mouth is not None:
            inside = batch.mouth[:, None, ::FACTOR, ::FACTOR].to(squared)
            weighted = self.training_settings.mouth_weight * squared * inside
            parts["mouth"] = weighted.sum() / squared.numel()
            each = each + weighted.mean((1, 2, 3))
        frames = {"losses": each, "levels": t / (TIMES - 1)}
        return {"loss": sum(parts.values()), **frames} | (parts if len(parts) > 1 else {})

    def loss(self, batch: ImageBatch, eta: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.losses(batch, eta, noise, t)["loss"]

    @torch.no_grad()
    def encoded(self, image: torch.Tensor, eta: torch.Tensor | None = None, keys: Sequence[str] = ()) -> torch.Tensor:
        """Latents [B, 4, h, w] of pictures in -1..1: the VAE's mean, or the sample that `eta` draws.

        Args:
            keys: [B] names of the pictures; where latents are kept, they are looked up.
        """
        if self.latents is not None and all(keys) and keys:
            mean, deviation = self.latents(image, keys)
        else:
            found = self.vae.encode(image).latent_dist
            mean, deviation = found.mean, found.std
        return self.vae.config.scaling_factor * (mean if eta is None else mean + deviation * eta)

    def draw(self, count: int, rng: np.random.Generator) -> Draws:
        """Of `count` frames, in the published order: VAE sample, noise, time."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        shape = (count, *self.latent_shape)
        eta, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        t = torch.randint(0, TIMES, (count,), generator=generator)
        return Draws(torch.full_like(t, TIMES - 1) if self.training_settings.regression else t, noise, eta)

    def frame_losses(self, batch: ImageBatch, draws: Draws) -> dict[str, torch.Tensor]:
        """`losses` of what `draw` drew."""
        return self.losses(batch, draws.image_noise, draws.noise, draws.time)

    forward = frame_losses  # so that a distributed wrapper's hooks run

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution // FACTOR
        return self.unet.config.in_channels, side, side

    def noise(self, rng: np.random.Generator, count: int = 1) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((count, *self.latent_shape), dtype=np.float32))

    @torch.no_grad()
    def sample(
        self,
        batch: ImageBatch,
        start: torch.Tensor,
        legs: Sequence[Sequence[Level]],
        draw: Callable[[], torch.Tensor],
        sampler: str = "ddpm",
        prompt: torch.Tensor | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Latents [B, 4, h, w] along the legs of `published_sampling` (7.2); prompt and guidance as in `denoiser`."""
        tokens = self.expression_codes_mlp(batch.expression)
        condition = embed(self.controlnet, self.conditioning(batch).to(self.controlnet.dtype))
        denoise = as_denoiser(self.denoiser(condition, tokens, prompt, guidance), self.prediction)
        # A compiled network would be compiled anew for every set of kept contexts.
        with nullcontext() if self.compiled else kept_contexts(self.controlnet, self.unet):
            return walk(sampler, denoise, start, legs, draw)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1; each decoder has a scale of its own."""
        decoder = self.vae if self.preview_decoder is None else self.preview_decoder
        scaled = (latents / decoder.config.scaling_factor).to(decoder.dtype)
        # A few at a time: a decoder's maps are far larger than the U-Net's.
        pictures = torch.cat([decoder.decode(some).sample.float() for some in scaled.split(DECODED_AT_ONCE)])
        return (pictures / 2 + 0.5).clamp(0, 1)

    def halve(self, dtype: torch.dtype = torch.float16) -> None:
        """For rendering only: frozen and trained networks compute in half precision, channels last.

        Textures, tokens and the sampler stay float32. float16 keeps three bits more than bfloat16.
        """
        for part in filter(None, (self.controlnet, self.unet, self.vae, self.preview_decoder)):
            part.to(dtype=dtype, memory_format=torch.channels_last)
        self.autocast = None

    def compile_denoiser(self, **options: Any) -> None:
        """See `avatar.compiling`."""
        self.controlnet.compile(**options)
        self.unet.compile(**options)
        self.compiled = True

    def compute_in(self, precision: torch.dtype) -> None:
        """For rendering only: float32, or `halve`."""
        self.autocast = None
        if precision != torch.float32:
            self.halve(precision)

    def render(
        self,
        batch: ImageBatch,
        noise: torch.Tensor,
        steps: int = 20,
        sampler: str = "ddpm",
        compat: bool = False,
        prompt: torch.Tensor | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Pictures [B, 3, H, W] in 0..1; every frame gets the same noise, whatever the size of the batch.

        Args:
            compat: as published: fresh noise for each place in the batch, and see `published_sampling`.
        """
        generator = torch.Generator().manual_seed(VARIANCE_SEED)
        start = noise.to(batch.rendered).expand(len(batch.rendered), -1, -1, -1)
        drawn = start.shape if compat else (1, *start.shape[1:])

        def draw() -> torch.Tensor:
            return torch.randn(drawn, generator=generator).to(start)

        legs = sampling_legs(sampler, steps, self.schedule, self.plain_schedule, compat)
        return self.decode(self.sample(batch, start, legs, draw, sampler, prompt, guidance))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Three AdamW: ControlNet; added attention and token projection; textures (6.2).

        Textures do not decay unless asked: a texel that no frame shows would fade.

        Raises:
            MissingError: 8-bit Adam is asked for and not installed.
        """
        settings = self.training_settings
        added = [p for p in self.unet.parameters() if p.requires_grad] + list(self.expression_codes_mlp.parameters())
        groups = [
            (list(self.controlnet.parameters()), settings.rate, settings.weight_decay, True),
            (added, settings.rate, settings.weight_decay, True),
            (list(self.textures.parameters()), settings.texture_rate, settings.texture_weight_decay, False),
        ]
        return [
            adamw(
                [{"params": params, "lr": rate, "rate": rate, "weight_decay": decay, "scheduled": scheduled}],
                settings.eight_bit_adam,
            )
            for params, rate, decay, scheduled in groups
        ]

    def lighten(self) -> None:
        """For a training: latents are kept, the frozen network's matrices are halved where it computes in half."""
        self.latents = LatentMemory(self.vae)
        if self.training_settings.attention != "sdpa":
            name, device = self.training_settings.attention, self.empty_prompt.device
            set_attention((self.controlnet, self.unet), name, device)
        if self.training_settings.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.controlnet.enable_gradient_checkpointing()
        for parameter in self.unet.parameters():
            if self.autocast is not None and not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.to(self.autocast)

    def rate(self, step: int, done: float) -> float:
        """Constant, after an optional linear start."""
        return min((step + 1) / max(self.training_settings.warm_up, 1), 1.0)

    def clipped(self) -> list[nn.Parameter]:
        return list(self.controlnet.parameters())

    def prepare(self, frames: Sequence[HeadMaps]) -> None:
        """Nothing is fitted to the training pictures beforehand."""

    def start_from(self, path: Path) -> None:
        """Begin with the trained tensors of another published avatar."""
        tensors, _ = read_weights(path, self.kind, self.sizes())
        self.load_trained(tensors, path)

    def sizes(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self.settings).items() if k not in ("base", "revision")}

    def _published_names(self) -> dict[str, str]:
        """Published name -> own name of every trained tensor."""
        own = self.state_dict().keys()
        parts = ("controlnet.", "expression_codes_mlp.")
        kept = [n for n in own if n.startswith(parts) or "_expression_attention" in n]
        return {n: n for n in kept} | {n.removeprefix("textures."): n for n in own if n.startswith("textures.")}

    def trained_state(self) -> dict[str, torch.Tensor]:
        """The 421 tensors of a published checkpoint, under its names."""
        state = self.state_dict()
        return {published: state[own] for published, own in self._published_names().items()}

    def load_trained(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        check_fit(self.trained_state(), tensors, path)
        names = self._published_names()
        self.load_state_dict({names[k]: v.float() for k, v in tensors.items()}, strict=False)
