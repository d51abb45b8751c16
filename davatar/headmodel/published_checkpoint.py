"""Published head-model checkpoints (NPHM with backward deformations; spec dphm 1.8): archive in, module and tables out.

The `.tar` is an ordinary torch archive. It is read with weights-only semantics: stored code never runs, optimiser
entries (plain or wrapped in a tuple) are ignored. Widths come from the tensors; the number of neighbours and the
blend width from `configs.yaml` above the archive; the mean anchors are not part of a checkpoint (spec 9.1).
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from davatar.core.errors import DataError, MissingError, listed
from davatar.core.torch_errors import UNREADABLE, unreadable
from davatar.headmodel.ict_codes import MEAN_ANCHORS
from davatar.headmodel.nphm import NPHM
from davatar.headmodel.published import config_from_shapes, from_published

TABLES = {"identity": "codebook.geo.embedding.weight", "expression": "codebook.exp.embedding.weight"}
_APPEARANCE = "codebook.app."  # of the colour branch
PATTERN = "checkpoint_epoch_*.tar"
ENTRIES = ("id_decoder", "ex_decoder", "latent_codes")


@dataclass(frozen=True)
class PublishedHead:
    network: NPHM
    identities: Tensor  # [n, Di] codes of the training identities
    expressions: Tensor  # [m, De] codes of the training expressions
    about: dict[str, Any]  # where it comes from, and what its folder says about the tables' rows


def summary(about: Mapping[str, Any]) -> dict[str, str]:
    """`PublishedHead.about` for people: without the long lists."""
    return {key: str(value) for key, value in about.items() if not isinstance(value, list)}


def is_published(path: str | Path) -> bool:
    """A checkpoint of this layout, whatever its name, or a folder that holds one. Nothing in it is unpickled."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob(PATTERN)) or any(path.glob(f"checkpoints/{PATTERN}"))
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"id_decoder" in archive.read(name) for name in names)
    except (OSError, zipfile.BadZipFile):  # damaged, or of an older kind: reading it will tell
        return path.suffix == ".tar"


def newest_checkpoint(path: str | Path) -> Path:
    """The archive itself; of a folder, the `checkpoint_epoch_<n>.tar` with the largest n.

    Raises:
        MissingError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = {int(p.stem.rpartition("_")[2]): p for p in path.rglob(PATTERN) if p.stem.rpartition("_")[2].isdigit()}
    if not found:
        raise MissingError("holds no checkpoint_epoch_<n>.tar", file=path)
    return found[max(found)]


def read_archive(path: str | Path) -> Mapping[str, Any]:
    """Named entries of a torch archive.

    Raises:
        MissingError: no such file.
        DataError: not a weights file, truncated, or it wants to run code.
    """
    if not Path(path).is_file():
        raise MissingError("is missing", file=path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # refused or read all the same
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        found = f"is not a readable weights file: {unreadable(error)}"
        raise DataError(found, file=path, mend="fetch it again") from error
    if not isinstance(state, Mapping):
        raise DataError(f"holds a {type(state).__name__}, expected named entries", file=path)
    return state


def load_published(path: str | Path, mean_anchors: Tensor | None = None) -> PublishedHead:
    """
    Args:
        path: the archive, or a folder above it (largest epoch).
        mean_anchors: [K, 3]; the table of spec 9.1 when None.

    Raises:
        MissingError: no checkpoint there.
        DataError: the archive is damaged, wants to run code, or holds other tensors than a head model; every missing
            and every unexpected key is named.
    """
    path = newest_checkpoint(path)
    state = read_archive(path)
    parts = [_tensors(state, entry, path) for entry in ENTRIES]
    tables = {name: parts[2].get(key) for name, key in TABLES.items()}
    wrong = [f"lacks {key}" for name, key in TABLES.items() if tables[name] is None or tables[name].ndim != 2]
    wrong += [f"has the unexpected {k}" for k in parts[2] if k not in TABLES.values() and not k.startswith(_APPEARANCE)]
    if wrong:
        raise DataError(f"the code tables do not fit: latent_codes {listed(wrong)}", file=path)
    rules = _rules(path)
    try:
        size = tables["identity"].shape[1]
        config = config_from_shapes(parts[0], parts[1], size, rules["nneigh"], rules["blend_std"])
        if mean_anchors is None and len(MEAN_ANCHORS) != config.anchors:
            raise DataError(f"its {config.anchors} mean anchors are not part of a checkpoint, and not known here")
        if rules["nsymm_pairs"] not in (None, config.pairs):
            found, expected = (config.anchors + 1 - pairs for pairs in (config.pairs, rules["nsymm_pairs"]))
            raise DataError(f"id_decoder holds {found} member networks, configs.yaml means {expected}")
        if config.expression_size != tables["expression"].shape[1]:
            found = f"codes of {tables['expression'].shape[1]} numbers, its decoder takes {config.expression_size}"
            raise DataError(f"{TABLES['expression']} holds {found}")
        network = from_published(parts[0], parts[1], config, mean_anchors)
    except DataError as error:
        raise DataError(error.message, file=path, mend="fetch it again") from error
    about = {"source": path.name, "epoch": int(state.get("epoch", 0))}
    about |= {"identities": len(tables["identity"]), "expressions": len(tables["expression"]), **_rows(path)}
    network = network.float().eval().requires_grad_(False)
    return PublishedHead(network, tables["identity"].float(), tables["expression"].float(), about)


def _tensors(state: Mapping[str, Any], entry: str, path: Path) -> dict[str, Tensor]:
    found = state.get(entry)
    if not isinstance(found, Mapping):
        absent = ", ".join(name for name in ENTRIES if not isinstance(state.get(name), Mapping))
        raise DataError(f"is not a published head model: no entry {absent}", file=path)
    other = [key for key, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise DataError(f"{entry} holds {listed(other)}, which are no tensors", file=path)
    return dict(found)


def _rules(path: Path) -> dict[str, Any]:
    """What shapes do not tell; a folder without configs.yaml, or an old one, means the published values."""
    rules = {"nneigh": 8, "blend_std": 4.0, "nsymm_pairs": None}
    config = _beside(path, "configs.yaml")
    if config is None:
        return rules
    import yaml

    try:
        said = yaml.safe_load(config.read_text(encoding="utf-8"))["decoder"]["id"]
        found = {key: type(rules[key] or 0)(said[key]) for key in rules if key in said}
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"does not describe a head model: {error}", file=config, mend="fetch it again") from error
    return rules | found


def _rows(path: Path) -> dict[str, Any]:
    """Subject and expression number of every row of the tables, where the folder says so."""
    found = {}
    for key, name in (("subjects", "subject_train_index.json"), ("expression_numbers", "expression_train_index.json")):
        file = _beside(path, name)
        if file is not None:
            try:
                found[key] = [int(value) for value in json.loads(file.read_text(encoding="utf-8"))]
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"is not a list of numbers: {error}", file=file, mend="fetch it again") from error
    return found


def _beside(path: Path, name: str) -> Path | None:
    """`name` in the archive's folder or the one above it."""
    return next((folder / name for folder in path.absolute().parents[:2] if (folder / name).is_file()), None)
