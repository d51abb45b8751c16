"""Settings of the published kind of avatar (spec diffusion-avatars 1.3, 5, 6); numbers only, imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionName = Literal["sdpa", "xformers"]  # torch's own, or a package for GPUs


@dataclass(frozen=True)
class PublishedSettings:
    """Sizes; the frozen base brings those of the U-Net and the VAE."""

    base: str = "stabilityai/stable-diffusion-2-1"  # folder in diffusers layout, file, or name in the hub's cache
    resolution: int = 512  # pixels; eight times the latent side
    texture_size: int = 512
    texture_features: int = 16
    rendered_channels: int = 9  # depth 1, canonical 3, normal 3, ambient 2
    expression_size: int = 206
    tokens: int = 4
    participants: int = 1
    revision: str | None = None  # of a base in the hub's cache; None = main
    zero_terminal_snr: bool = True  # the last time is pure noise
    predict_x0: bool = False  # the network puts out the clean latents instead of what its base puts out

    @property
    def condition_channels(self) -> int:
        return self.rendered_channels + 4 * self.texture_features


@dataclass(frozen=True)
class PublishedTraining:
    """Three AdamW optimisers: ControlNet; added attention and token projection; textures."""

    rate: float = 1e-4
    texture_rate: float = 1e-2
    weight_decay: float = 1e-2
    texture_weight_decay: float = 0.0  # published: 1e-2, which fades texels that no frame shows
    eight_bit_adam: bool = False  # a quarter of the optimisers' memory; needs bitsandbytes
    gradient_checkpointing: bool = False  # less memory, about a third more time, the same gradients
    attention: AttentionName = "sdpa"
    warm_up: int = 0  # steps; the published runs use a constant rate
    use_vae_mean: bool = False
    mouth_weight: float = 0.0  # of the mouth's squared error, added to the loss; needs frames with a mouth mask
    regression: bool = False  # t fixed to 999: one step from the conditioning to the picture
