"""Files of priors: ours (safetensors, everything inside) and the choice between ours and published ones.

A file of ours holds `network.*` and `normalization.*` tensors; its metadata says how to build the rest:
kind, network, schedule, prediction type, and about it licence and training data. The metadata is one JSON
entry, because the order of several is not kept: the same prior gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from davatar.core.errors import ConfigError, DataError, MissingError, listed
from davatar.core.files import write_bytes
from davatar.core.runs import CONFIG, Run, resolve_run
from davatar.core.settings import from_mapping
from davatar.diffusion.parameterization import PredictionType
from davatar.diffusion.schedule import ScheduleName, named_schedule
from davatar.headmodel.weights import KIND as HEAD_MODEL
from davatar.prior.code_prior import CodePrior, Kind
from davatar.prior.network import NetworkConfig, build_network
from davatar.prior.normalization import normalization_from_arrays

FORMAT = "davatar-prior-1"
FILE_NAME = "prior.safetensors"  # inside a run


def shipped() -> list[str]:
    """Names that `CodePrior.from_pretrained` takes without a path."""
    folder = files("davatar.assets") / "prior"
    return sorted(p.name.removesuffix(".safetensors") for p in folder.iterdir() if p.name.endswith(".safetensors"))


def load_prior(name: str | Path) -> CodePrior:
    """See `CodePrior.from_pretrained`."""
    path = Path(name)
    if str(name) in shipped():
        with as_file(files("davatar.assets") / "prior" / f"{name}.safetensors") as inside:
            return read_prior(inside)
    if not path.exists():
        path = _run_folder(name)
    if path.is_file() and path.suffix != ".pt":
        return read_prior(path)
    if (path / FILE_NAME).is_file():
        return read_prior(path / FILE_NAME)
    if (path / CONFIG).is_file():
        mend = f"finish it: `davatar prior train {_trained_kind(path)} --resume {path.name}`"
        raise MissingError("this training has not finished", file=path, mend=mend)
    from davatar.prior.published import load_published

    return load_published(path)


def _run_folder(name: str | Path) -> Path:
    try:
        return resolve_run(name).folder
    except MissingError as error:
        mend = f"name a file, a run or one of {', '.join(shipped())}"
        raise MissingError("there is no prior of that name or path", file=name, mend=mend) from error


def _trained_kind(folder: Path) -> str:
    try:
        return str(Run(folder).manifest["kind"])
    except (DataError, KeyError):
        return "KIND"


def write_prior(
    path: str | Path,
    prior: CodePrior,
    network: NetworkConfig,
    schedule: ScheduleName,
    half: bool = False,
) -> None:
    """One self-contained file; `half` stores the network's weights as float16 (the normalisation never)."""
    from safetensors.torch import save

    dtype = torch.float16 if half else torch.float32
    tensors = {f"network.{k}": v.detach().cpu().to(dtype).contiguous() for k, v in prior.network.state_dict().items()}
    arrays = prior.normalization.arrays()
    tensors |= {f"normalization.{key}": torch.as_tensor(value) for key, value in arrays.items()}
    config = {
        "kind": prior.kind,
        "network": network.as_dict(),
        "schedule": schedule,
        "steps": prior.steps,
        "prediction": prior.prediction,
        "code_size": prior.code_size,
    }
    metadata = {FORMAT: json.dumps({"config": config, "about": dict(prior.about)})}
    write_bytes(path, save(tensors, metadata))


def own_kind(path: str | Path) -> Kind | None:
    """What the file that `write_prior` made is for (its label is read, nothing else); None for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return json.loads((file.metadata() or {})[FORMAT])["config"]["kind"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def read_prior(path: str | Path) -> CodePrior:
    """
    Raises:
        DataError: the file is no prior of ours, truncated, or its parts do not fit each other.
    """
    from safetensors import SafetensorError, safe_open

    mend = "train it again, or fetch the file again"
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata.get("kind") == HEAD_MODEL:
            raise DataError("is a head model, not a prior", file=path, mend="give it as the head model")
        if FORMAT not in metadata:
            found = listed(list(metadata)) or "no metadata"
            raise DataError(f"is not a prior of this version ({found})", file=path, mend=mend)
        if not any(key.startswith("normalization.") for key in tensors):
            raise DataError("holds no normalisation of codes", file=path, mend="train or import the prior again")
        document = json.loads(metadata[FORMAT])
        return _build(document["config"], document["about"], tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"is not a readable prior: {reason}", file=path, mend=mend) from error


def _build(config: Mapping[str, Any], about: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> CodePrior:
    def part(name: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}

    arrays = {key: value.numpy() for key, value in part("normalization.").items()}
    normalization = normalization_from_arrays(arrays, config["code_size"])
    network = build_network(from_mapping(NetworkConfig, config["network"], "the prior's file"), normalization.size)
    network.load_state_dict({key: value.float() for key, value in part("network.").items()})
    network.requires_grad_(False).eval()
    prediction: PredictionType = config["prediction"]
    schedule = named_schedule(config["schedule"], config["steps"])
    return CodePrior(config["kind"], network, schedule, prediction, normalization, about)
