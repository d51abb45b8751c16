"""What the frozen image encoder makes of training pictures, kept: a picture is encoded once, not in every epoch.

Each picture is encoded alone and in float32, so that its latents depend neither on the batch it first came
with nor on where a training was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL

MOST_BYTES = 8e9  # of memory; later pictures are encoded every time


class LatentMemory:
    def __init__(self, vae: AutoencoderKL):
        self.vae = vae
        self.bytes = 0
        self._kept: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, keys: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [B, 4, h, w] of the latents of pictures [B, 3, H, W] called `keys`."""
        found = [self._one(image, key).to(images.device) for image, key in zip(images, keys, strict=True)]
        mean, deviation = torch.stack(found).chunk(2, 1)
        return mean, deviation

    def _one(self, image: torch.Tensor, key: str) -> torch.Tensor:
        if key not in self._kept:
            with torch.autocast(image.device.type, enabled=False):
                made = self.vae.encode(image[None].to(self.vae.dtype)).latent_dist
            both = torch.cat([made.mean, made.std], 1)[0].float()
            if self.bytes >= MOST_BYTES:
                return both
            self._kept[key] = both.cpu()
            self.bytes += both.nbytes
        return self._kept[key]
