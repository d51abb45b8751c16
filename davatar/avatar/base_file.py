"""A frozen base in one file: Stable Diffusion 2.1 under the names of its authors, `.safetensors` or `.ckpt`.

    model.diffusion_model.   U-Net           first_stage_model.   VAE
    cond_stage_model.model.  text encoder; of its 24 layers all but the last

Such a file holds numbers and no sizes. These lie in `davatar/assets/base` (spec diffusion-avatars 5.1), so nothing is
asked for elsewhere. There is no tokenizer in it either: only the empty prompt is known, whose tokens are always the
same. A pickle that holds more than tensors is refused, not executed.
"""

from __future__ import annotations

import pickle
import re
from importlib.resources import files
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open

from davatar.avatar.torch_file import read_torch
from davatar.avatar.weights import check_fit
from davatar.avatar.whole_network import Network, first_line, missing_tensor, quiet
from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.core.progress import log
from davatar.core.torch_errors import UNREADABLE, unreadable
from davatar.diffusion.parameterization import PredictionType

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
NAMES = {UNET: "U-Net", VAE: "VAE", TEXT: "text encoder"}
SUFFIXES = (".safetensors", ".ckpt")
SHAPES = Path(str(files("davatar.assets") / "base"))
MEND = "give the whole Stable Diffusion 2.1 checkpoint, or a folder in diffusers layout"
TEXT_NAMES = {  # the authors' -> transformers'
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
    "transformer.resblocks": "encoder.layers",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn": "self_attn",
}


def load_networks(file: Path) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """U-Net and VAE, float32.

    Raises:
        DataError: the file is not readable, lacks a part, holds more than tensors, or is of another model.
    """
    unet = _network(UNet2DConditionModel, "unet", read_part(file, UNET), file)
    return unet, _network(AutoencoderKL, "vae", read_part(file, VAE), file)


def prediction_of(file: Path) -> PredictionType:
    """What the U-Net puts out; only the name tells the 768-pixel model from the 512-pixel base model."""
    found: PredictionType = "epsilon" if re.search("512|base", file.stem.lower()) else "v_prediction"
    log.info("%s is taken for a model of %s, by its name", file, found)
    return found


def read_part(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, float32, on the CPU.

    Raises:
        DataError: see `load_networks`.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise DataError("is no base: single files end in .safetensors or .ckpt", file=file, mend=MEND)
    found = (_read_safetensors if file.suffix.lower() == ".safetensors" else _read_pickle)(file, prefix)
    if not found:
        raise DataError(f"holds no {NAMES[prefix]} ({prefix}...)", file=file, mend=MEND)
    return {name: value.float() for name, value in found.items()}


def _read_safetensors(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys() if name.startswith(prefix)}
    except (OSError, SafetensorError) as error:
        raise DataError(f"is not readable: {error}", file=file, mend="copy it again") from error


def _read_pickle(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    try:
        stored = read_torch(file)
    except pickle.UnpicklingError as error:
        raise DataError(
            "cannot be read without executing what is in it", file=file, mend="take its .safetensors twin"
        ) from error
    except UNREADABLE as error:
        raise DataError(f"is not readable: {unreadable(error)}", file=file, mend="copy it again") from error
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else {}
    named = stored.items() if isinstance(stored, dict) else ()
    return {name: value for name, value in named if str(name).startswith(prefix) and torch.is_tensor(value)}


def _network(kind: type[Network], part: str, tensors: dict[str, torch.Tensor], file: Path) -> Network:
    try:
        with quiet():
            network = kind.from_single_file(tensors, config=str(SHAPES), subfolder=part, local_files_only=True)
    except SingleFileComponentError as error:
        raise _another_model(part, f"none of its tensors is known, e.g. {min(tensors)}", file) from error
    except NotImplementedError as error:  # what has no numbers yet cannot be moved
        raise _another_model(part, "tensors are missing", file) from error
    except (OSError, ValueError, RuntimeError, LookupError, AttributeError, TypeError) as error:
        raise _another_model(part, first_line(error), file) from error
    if missing := missing_tensor(network):
        raise _another_model(part, f"{missing} is missing", file)
    return network


def _another_model(part: str, reason: str, file: Path) -> DataError:
    return DataError(f"its {part} is not Stable Diffusion 2.1's: {reason}", file=file, mend=MEND)


@torch.no_grad()
def encode_empty(file: Path) -> torch.Tensor:
    """[1, 77, Dt] last hidden state of "" by the file's text encoder.

    Raises:
        MissingError: `transformers` (extra `sd`) is not installed.
        DataError: the file holds no text encoder, or another one.
    """
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise MissingError("the text encoder needs transformers", mend="pip install 'davatar[sd]'") from error
    config = CLIPTextConfig(**read_json(SHAPES / "text_encoder" / "config.json"))
    with init_empty_weights():
        model = CLIPTextModel(config)
    inner = getattr(model, "text_model", model)  # a wrapper in some versions
    tensors = text_tensors(read_part(file, TEXT), config.num_hidden_layers)
    try:
        check_fit(inner.state_dict(), tensors, file)
    except DataError as error:
        raise _another_model("text encoder", error.message, file) from error
    inner.load_state_dict(tensors, assign=True)
    start, end = config.vocab_size - 2, config.vocab_size - 1
    ids = torch.tensor([[start, end] + [0] * (config.max_position_embeddings - 2)])
    return model.eval()(ids)[0]


def text_tensors(stored: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The first `layers` layers of the authors' text encoder under transformers' names."""
    found: dict[str, torch.Tensor] = {}
    for name, value in stored.items():
        name = name.removeprefix(TEXT)
        layer = re.match(r"transformer\.resblocks\.(\d+)\.", name)
        if name in ("text_projection", "logit_scale", "attn_mask") or (layer and int(layer[1]) >= layers):
            continue
        for theirs, ours in TEXT_NAMES.items():
            name = re.sub(rf"(^|\.){re.escape(theirs)}($|\.)", rf"\1{ours}\2", name)
        if (joined := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)) is None:
            found[name] = value
            continue
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            found[f"{joined[1]}.{part}_proj.{joined[2]}"] = rows.contiguous()
    return found
