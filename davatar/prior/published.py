"""Published diffusion checkpoints (`model-<milestone>.pt`; spec dphm 4.3, 4.5).

Widths are read from the weights, the schedule and the prediction type from its stored buffers, the
normalisation range from the head model's code table beside it: nothing of it lies in the file. Files
are read with weights-only semantics; no stored code runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from davatar.core.errors import DataError, MissingError, UsageError, listed
from davatar.diffusion.parameterization import PredictionType, loss_weights
from davatar.diffusion.schedule import NoiseSchedule, ScheduleName, cosine_schedule, linear_schedule, named_schedule
from davatar.headmodel.published_checkpoint import TABLES as HEAD_MODEL_TABLES
from davatar.headmodel.published_checkpoint import newest_checkpoint as newest_head_model
from davatar.headmodel.published_checkpoint import read_archive
from davatar.headmodel.weights import is_head_model, load_tables
from davatar.prior.checkpoint import FILE_NAME, own_kind
from davatar.prior.code_prior import CodePrior, Kind
from davatar.prior.network import NetworkConfig
from davatar.prior.normalization import RangeNormalization
from davatar.prior.published_kind import CONFIG, code_length, published_kind
from davatar.prior.unet import UNet1d

TABLES: dict[Kind, tuple[str, ...]] = {
    "identity": (HEAD_MODEL_TABLES["identity"],),
    "expression": (HEAD_MODEL_TABLES["expression"],),
    "joint": (HEAD_MODEL_TABLES["identity"], HEAD_MODEL_TABLES["expression"]),
}
PREDICTIONS: tuple[PredictionType, ...] = ("epsilon", "sample", "v_prediction")


def newest_checkpoint(folder: str | Path) -> Path:
    """The `model-<milestone>.pt` with the numerically largest milestone in `folder` or its `checkpoints/`.

    Raises:
        MissingError: there is none.
    """
    folder = Path(folder)
    found = {}
    for path in [*folder.glob("model-*.pt"), *folder.glob("checkpoints/model-*.pt")]:
        if match := re.fullmatch(r"model-(\d+)", path.stem):
            found[int(match[1])] = path
    if not found:
        raise MissingError("holds no model-<milestone>.pt", file=folder, mend="name the folder above checkpoints/")
    return found[max(found)]


def load_published(
    path: str | Path,
    weights: Literal["model", "ema"] = "model",
    kind: Kind | None = None,
    head_model: str | Path | None = None,
    bounds: tuple[float, float] | None = None,
) -> CodePrior:
    """
    Args:
        path: a checkpoint file, or the folder it lies in (newest milestone).
        weights: "model" as the published tracker loads them, or their moving average.
        kind: which codes it is for; None: by its settings file and the folder's name.
        head_model: checkpoint or folder whose code tables give the normalisation range; None: `nphm_*` beside it.
        bounds: the range itself, lowest and highest code value; then no table is needed.

    Raises:
        MissingError: checkpoint, code table or the chosen weights are absent.
        DataError: a file is truncated, does not hold what it should, or is for other codes than `kind`.
        UsageError: it is a file of davatar's own already.
    """
    path = Path(path)
    _refuse_own(path)
    path = newest_checkpoint(path) if path.is_dir() else path
    state = read_archive(path)
    model = _diffusion_state(state, weights, path)
    network = _network(model, path)
    schedule, prediction = _schedule(model, path)
    kind, length = published_kind(path, kind), code_length(path)
    if bounds is None:
        tables = code_tables(head_model or _head_model_beside(path))
        bounds = code_range(tables, kind)
        size = sum(tables[key].shape[1] for key in TABLES[kind])
        if length not in (None, size):
            found = f"makes codes of {length} numbers by its {CONFIG}, the head model's {kind} codes have {size}"
            raise DataError(found, file=path, mend="name the head model it was trained with, or another kind")
    elif length is None:
        mend = "name the head model instead of the range"
        file = path.parent.parent / CONFIG
        raise MissingError("does not tell the length of the codes (seq_length)", file=file, mend=mend)
    else:
        size = length
    about = {
        "source": str(path),
        "weights": weights,
        "milestone": int(path.stem.removeprefix("model-")) if path.stem.startswith("model-") else None,
        "training_steps": int(state.get("step", 0)),
    }
    return CodePrior(kind, network, schedule, prediction, RangeNormalization(*bounds, code_size=size), about)


def _refuse_own(path: Path) -> None:
    """
    Raises:
        UsageError: `path`, or the run it is, holds weights in our format, which need no import.
    """
    for file in (path, path / FILE_NAME, path / "model.safetensors"):
        if is_head_model(file):
            what, use = "head model", f"davatar prior sample --head-model {file}"
        elif kind := own_kind(file):
            what = f"{kind} prior"
            use = f"davatar prior sample --{'expression' if kind == 'expression' else 'identity'} {file}"
        elif _label(file).endswith(" avatar"):
            run = next((above.parent for above in file.parents if above.name == "checkpoints"), "RUN")
            what, use = "avatar", f"davatar render {run}"
        else:
            continue
        mend = f"use it as it is: `{use}`"
        raise UsageError(f"is davatar's own {what} already, there is nothing to import", file=file, mend=mend)


def _label(file: Path) -> str:
    """What a safetensors file of ours says that it is; "" where it says nothing, or is none."""
    try:
        with safe_open(str(file), "pt") as opened:
            label = (opened.metadata() or {}).get("kind", "")
    except (SafetensorError, OSError, ValueError):
        return ""
    return label if label.startswith("davatar ") else ""


def stored_as(prior: CodePrior) -> tuple[NetworkConfig, ScheduleName]:
    """How our own file describes the network and schedule of a published prior.

    Raises:
        DataError: it has what our files cannot hold (several channels, self-conditioning, an unknown schedule).
    """
    network = prior.network
    if network.channels != 1 or network.self_condition:
        raise DataError("a U-Net of several channels or with self-conditioning cannot be imported")
    widths = [stage[3].weight.shape[0] for stage in network.downs]
    dim = network.init_conv.weight.shape[0]
    for name in ("cosine", "linear"):
        if np.array_equal(named_schedule(name, prior.steps).betas, prior.schedule.betas):
            return NetworkConfig("unet", width=dim, mults=tuple(w // dim for w in widths)), name
    raise DataError("its noise schedule is neither cosine nor linear")


def code_tables(head_model: str | Path) -> dict[str, Tensor]:
    """Code tables of a published head model.

    Args:
        head_model: its checkpoint, the folder (newest `checkpoint_epoch_<n>.tar`), or our file of it.

    Returns:
        identity and expression table under their published keys, [n, L] each.
    """
    path = newest_head_model(head_model)
    if path.suffix == ".safetensors":
        return {HEAD_MODEL_TABLES[name]: table for name, table in load_tables(path).items()}
    tables = read_archive(path).get("latent_codes")
    if not isinstance(tables, Mapping):
        raise DataError("holds no code tables (entry latent_codes)", file=path)
    return dict(tables)


def code_range(tables: Mapping[str, Tensor], kind: Kind) -> tuple[float, float]:
    """Lowest and highest number of the tables that `kind` is about."""
    missing = [key for key in TABLES[kind] if key not in tables]
    if missing:
        raise DataError(f"the code tables lack {missing[0]}", mend="name the head model the prior was trained with")
    chosen = [tables[key] for key in TABLES[kind]]
    return min(float(x.min()) for x in chosen), max(float(x.max()) for x in chosen)


def _head_model_beside(path: Path) -> Path:
    for parent in list(path.parents)[:3]:
        beside = sorted(p for p in parent.glob("nphm*") if any(p.rglob("checkpoint_epoch_*.tar")))
        if beside:
            return beside[0]
    raise MissingError(
        "no code table lies beside this prior, so its normalisation is unknown",
        file=path,
        mend="name the head model's checkpoint, or give the lowest and highest code value",
    )


def _diffusion_state(state: Mapping[str, Any], weights: str, path: Path) -> dict[str, Tensor]:
    entry = state.get(weights)
    if not isinstance(entry, Mapping):
        raise MissingError(f"holds no {weights!r} weights, only {listed(list(state))}", file=path)
    if weights == "ema":
        entry = {k.removeprefix("ema_model."): v for k, v in entry.items() if k.startswith("ema_model.")}
    if "init_conv.weight" not in {k.removeprefix("model.") for k in entry}:
        raise DataError(f"its {weights!r} entry is not a 1-D U-Net", file=path)
    return dict(entry)


def _network(state: Mapping[str, Tensor], path: Path) -> UNet1d:
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    dim, inputs, _ = weights["init_conv.weight"].shape
    channels = len(weights["final_conv.bias"])
    levels = 1 + max(int(k.split(".")[1]) for k in weights if k.startswith("downs."))
    mults = tuple(weights[f"downs.{k}.3.weight"].shape[0] // dim for k in range(levels))
    network = UNet1d(dim, mults, channels, self_condition=inputs == 2 * channels)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"its weights do not fit a 1-D U-Net of width {dim}: {reason}", file=path) from error
    return network.requires_grad_(False).eval()


def _schedule(state: Mapping[str, Tensor], path: Path) -> tuple[NoiseSchedule, PredictionType]:
    try:
        betas, weights = state["betas"].numpy(), state["loss_weight"].numpy()
    except KeyError as error:
        raise DataError(f"lacks the buffer {error}", file=path) from error
    for make in (cosine_schedule, linear_schedule):  # the exact one where it is known; the stored is rounded
        schedule = make(len(betas))
        if np.allclose(schedule.betas, betas, rtol=1e-5, atol=1e-8):
            break
    else:
        schedule = NoiseSchedule.from_betas(betas)
    for prediction in PREDICTIONS:
        if np.allclose(loss_weights(schedule, prediction), weights, rtol=1e-3, atol=1e-8):
            return schedule, prediction
    raise DataError("its loss weights belong to no known prediction type", file=path)
