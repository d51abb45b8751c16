"""The frozen image model under a published avatar: Stable Diffusion's U-Net, VAE and empty prompt.

It is never downloaded by itself. A base is a folder in diffusers layout, or the name of a repository
that lies in the local hub cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from davatar.core import paths
from davatar.core.errors import DataError, MissingError

PARTS = ("unet", "vae", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class FrozenBase:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    empty_prompt: torch.Tensor  # [1, 77, Dt] hidden state of ""


def load_base(name: str) -> FrozenBase:
    """Load the base called `name`: a folder, a folder of the models directory, or a repository in the hub cache.

    Raises:
        MissingError: it is not there, or `transformers` (extra `sd`) is not installed; says what to place where.
        DataError: a part of it cannot be read.
    """
    place = _place(name)
    try:
        unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet", local_files_only=True)
        vae = AutoencoderKL.from_pretrained(place, subfolder="vae", local_files_only=True)
    except OSError as error:
        raise DataError(f"is not a readable base: {_first_line(error)}", file=place, mend=_layout()) from error
    return FrozenBase(unet.requires_grad_(False), vae.requires_grad_(False).eval(), _empty_prompt(place))


def _place(name: str) -> str:
    for folder in (Path(name).expanduser(), paths.models_dir() / name, paths.models_dir() / Path(name).name):
        if folder.is_file():
            raise MissingError("is a single file, expected a folder", file=folder, mend=_layout())
        if (folder / "unet").is_dir():
            return str(folder)
    if Path(name).is_absolute() or name.startswith("."):
        raise MissingError("no frozen base there", file=name, mend=_layout())
    try:
        cached = try_to_load_from_cache(name, "unet/config.json")
    except HFValidationError:
        cached = None
    if not isinstance(cached, str):
        raise MissingError(f"the frozen base {name!r} is not on this machine", mend=_where(name))
    return str(Path(cached).parent.parent)


def _empty_prompt(place: str) -> torch.Tensor:
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise MissingError("the text encoder needs transformers", mend="pip install 'davatar[sd]'") from error
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, subfolder="tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(place, subfolder="text_encoder", local_files_only=True).eval()
    except OSError as error:
        raise DataError(f"is not a readable base: {_first_line(error)}", file=place, mend=_layout()) from error
    ids = tokenizer("", padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids)[0]


def _layout() -> str:
    return f"give a folder with {', '.join(part + '/' for part in PARTS)} in diffusers layout"


def _where(name: str) -> str:
    return (
        f"place it at {paths.models_dir() / Path(name).name} ({', '.join(part + '/' for part in PARTS)} in diffusers "
        f"layout), or set published.base to its folder"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
