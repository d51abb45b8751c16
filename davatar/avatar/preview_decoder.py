"""A small decoder in place of the frozen base's: previews in a fraction of its time, a little less sharp.

It is a folder in diffusers layout (`AutoencoderTiny`) that the user brings; nothing is downloaded. Such decoders are
distilled for one family of latents: `madebyollin/taesd` for Stable Diffusion 1 and 2, and no other is right here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
PLACE = f"copy {CONFIG} and {WEIGHTS} of madebyollin/taesd there"


def load_preview_decoder(folder: Path, channels: int, factor: int) -> AutoencoderTiny:
    """
    Args:
        channels: of the latents.
        factor: picture pixels per latent pixel.

    Raises:
        MissingError: a file is not there; says what to place where.
        DataError: it is not readable, no small decoder, or one for other latents.
    """
    folder = Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingError(f"the small decoder lacks {name}", file=folder, mend=PLACE)
    config = read_json(folder / CONFIG)
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "AutoencoderTiny":
        raise DataError(f"describes {kind or 'nothing'}, expected AutoencoderTiny", file=folder / CONFIG, mend=PLACE)
    try:
        decoder = AutoencoderTiny.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"is not a readable small decoder: {reason}", file=folder, mend=PLACE) from error
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
