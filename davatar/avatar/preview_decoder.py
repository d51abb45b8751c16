"""A small decoder in place of the frozen base's: previews in a fraction of its time, a little less sharp.

It is a folder in diffusers layout (`AutoencoderTiny`) that the user brings; nothing is downloaded. Such decoders are
distilled for one family of latents: `madebyollin/taesd` for Stable Diffusion 1 and 2, and no other is right here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from davatar.avatar.whole_network import WEIGHTS, load_whole
from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json

CONFIG = "config.json"
PLACE = f"copy {CONFIG} and {WEIGHTS} of madebyollin/taesd there"


def load_preview_decoder(folder: Path, channels: int, factor: int) -> AutoencoderTiny:
    """Read the small decoder of a folder.

    Args:
        channels: of the latents.
        factor: picture pixels per latent pixel.

    Returns:
        The decoder, float32 on the CPU and never trained: latents [B, channels, h, w] -> pictures
        [B, 3, factor * h, factor * w], -1..1.

    Raises:
        MissingError: a file is not there; says what to place where.
        DataError: it is not readable, no small decoder, one for other latents, or its tensors are not those of the
            decoder that its config describes.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingError(f"the small decoder lacks {name}", file=folder, mend=PLACE)
    config = read_json(folder / CONFIG)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderTiny":
        raise DataError(f"describes {kind or 'nothing'}, expected AutoencoderTiny", file=folder / CONFIG, mend=PLACE)
    decoder = load_whole(AutoencoderTiny, folder, "small decoder", PLACE, use_safetensors=True)
    sizes = decoder.config
    enlarges = sizes.upsampling_scaling_factor ** (len(sizes.num_decoder_blocks) - 1)
    if (sizes.latent_channels, enlarges) != (channels, factor):
        raise DataError(
            f"decodes latents of {sizes.latent_channels} channels to {enlarges} times their size, the avatar's have "
            f"{channels} and need {factor}",
            file=folder,
            mend=PLACE,
        )
    return decoder.to(torch.float32).requires_grad_(False).eval()
