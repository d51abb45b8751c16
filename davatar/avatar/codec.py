"""Pixels <-> patch latents: 4 x 4 patches in a rotated basis, lossless.

The basis is the closed-form PCA of the patches of some training images, all components kept and one
common scale, so white noise in the latent is white noise in the picture. Images are [B, 3, H, W], in
-1..1; latents [B, 48, H/4, W/4], about unit variance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 4


class PatchCodec(nn.Module):
    def __init__(self):
        super().__init__()
        size = 3 * PATCH * PATCH
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("rotation", torch.eye(size))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Set mean, rotation and scale from images [N, 3, H, W]."""
        patches = F.pixel_unshuffle(images.double(), PATCH).permute(0, 2, 3, 1).reshape(-1, len(self.mean))
        mean = patches.mean(0)
        spread, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        vectors = vectors.flip(1)
        # An eigenvector's sign is free: fix it, so that two machines write the same codec.
        sign = torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))
        self.mean.copy_(mean)
        self.rotation.copy_((vectors * sign).T)
        self.scale.copy_(1 / spread.clamp_min(0).mean().sqrt())

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        patches = F.pixel_unshuffle(image, PATCH) - self.mean[:, None, None]
        return F.conv2d(patches, (self.scale * self.rotation)[..., None, None])

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        patches = F.conv2d(latent, (self.rotation.T / self.scale)[..., None, None]) + self.mean[:, None, None]
        return F.pixel_shuffle(patches, PATCH)

    def unrotate(self, latent: torch.Tensor) -> torch.Tensor:
        """A latent on the pixel grid, still in latent units: unit noise stays unit noise."""
        return F.pixel_shuffle(F.conv2d(latent, self.rotation.T[..., None, None]), PATCH)
