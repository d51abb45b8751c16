"""What a training needs in memory, from the numbers of parameters, the batch and the resolution.

    learnt   x (4 B weights + 4 B gradients + 8 B or 2 B Adam + 4 B average, if any)
    frozen   x 4 B, or 2 B for the U-Net where it computes in half precision
    frames at once x what the backward pass keeps of one, a constant per latent pixel (published) or pixel (tiny)
    frames of the data set, where they are kept

The constants per pixel are sums over the tensors that autograd saves in one forward pass at full size, plus
what a block recomputes with gradient checkpointing. Work space of single operations is not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

from davatar.avatar.precision import choose
from davatar.avatar.settings import AvatarSettings

FLOAT = 4  # bytes
# Stable Diffusion 2.1, numbers of parameters.
UNET, VAE, CONTROLNET, EXPRESSION_ATTENTION, TEXT_WIDTH = 865_910_724, 83_653_863, 364_238_320, 44_452_800, 1024
KEPT_PER_LATENT_PIXEL = {False: 0.63e6, True: 0.18e6}  # bytes in float32, without and with gradient checkpointing
KEPT_PER_PIXEL = 1.6e3  # bytes, small avatar in float32
FRAME_BYTES = 20  # per pixel of a frame in memory
KEPT_BYTES = 4e9  # data sets up to this size are kept in memory; of larger ones frames are read ahead
PROGRAM = 0.7e9  # torch and its libraries


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    frames: float  # of the data set; in the computer's memory, also when a GPU trains

    @property
    def total(self) -> float:
        """Where the network is: without the frames."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


def expected_memory(settings: AvatarSettings, frames: int, device: str = "cpu") -> Memory:
    """
    Args:
        frames: of the data set.
        device: where the network computes.
    """
    learnt = learnt_numbers(settings)
    half = choose(settings.precision, settings.kind, device).itemsize == 2
    if settings.kind == "tiny":
        frozen, state, kept = 0.0, 2 * FLOAT, settings.resolution**2 * KEPT_PER_PIXEL
    else:
        training = settings.published_training
        frozen = UNET * (2 if half else FLOAT) + VAE * FLOAT
        frozen += 2 * learnt if half else 0  # autocast's copies of the matrices
        state = 2 if training.eight_bit_adam else 2 * FLOAT
        kept = (settings.resolution / 8) ** 2 * KEPT_PER_LATENT_PIXEL[training.gradient_checkpointing]
    return Memory(
        weights=FLOAT * learnt + frozen,
        gradients=FLOAT * learnt,
        optimizer=state * learnt,
        average=FLOAT * learnt * bool(settings.average),
        activations=settings.batch * kept * (0.55 if half else 1),
        frames=PROGRAM + min(FRAME_BYTES * frames * settings.resolution**2, KEPT_BYTES),
    )


def learnt_numbers(settings: AvatarSettings) -> int:
    """How many numbers the optimisers move."""
    if settings.kind == "published":
        sizes = settings.published
        planes = 4 * sizes.participants * sizes.texture_size**2 * sizes.texture_features
        projection = (sizes.expression_size + 1) * sizes.tokens * TEXT_WIDTH
        return CONTROLNET + EXPRESSION_ATTENTION + projection + planes
    import torch

    from davatar.avatar.tiny import TinyAvatar

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TinyAvatar(settings.tiny, settings.tiny_training).parameters())
