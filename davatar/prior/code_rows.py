"""The code table a prior learns from: rows of a file, or of a published head model with who made which expression.

A published head model keeps one row per identity and one per scanned expression, and lists of subjects and of
expressions that say which belong together. The identity prior sees a person once per scan, the joint one
sees each pair (spec dphm 4.5).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError, MissingError
from davatar.core.files import read_json
from davatar.headmodel.published_checkpoint import is_published, newest_checkpoint
from davatar.headmodel.weights import is_head_model
from davatar.prior.code_prior import Kind
from davatar.prior.published import TABLES, code_tables

ACCEPTED = (
    "give a .npy [N, L], an .npz with `codes` [N, L], a published head model (checkpoint_epoch_<n>.tar, or the folder "
    "above it), or its file of ours (.safetensors)"
)
SUBJECTS, EXPRESSIONS = "subject_train_index.json", "expression_train_index.json"


@dataclass(frozen=True)
class CodeRows:
    codes: np.ndarray  # [N, L] float32
    weights: np.ndarray | None = None  # [N] how often a row is seen; None: all alike
    people: np.ndarray | None = None  # [N] whose row it is, so that a held-out person is unseen; None: one row each


def load_code_rows(path: str | Path, kind: Kind) -> CodeRows:
    """Codes from a .npy, an .npz (`codes` [N, L], optional `people` [N]), or a head model with code tables.

    Raises:
        DataError: the file is no table, or a joint prior's rows cannot be paired.
        MissingError: nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise MissingError("there is no code table", file=path, mend=ACCEPTED)
    if path.suffix in (".npy", ".npz"):
        return _from_arrays(path)
    if path.is_file() and not is_head_model(path) and not is_published(path):
        raise DataError("is no code table of a known format", file=path, mend=ACCEPTED)
    tables = code_tables(path)
    absent = [key for key in TABLES["joint"] if key not in tables]
    if absent:
        raise DataError(f"is a head model without code tables ({', '.join(absent)})", file=path, mend=ACCEPTED)
    identities, expressions = (tables[key].numpy() for key in TABLES["joint"])
    if kind == "expression":
        return CodeRows(expressions)
    owner = _owners(path, len(identities), len(expressions))
    if kind == "identity":
        return CodeRows(identities, None if owner is None else np.bincount(owner, minlength=len(identities)))
    if owner is None:
        mend = f"put {SUBJECTS} and {EXPRESSIONS} beside it, or give an .npz of joined codes"
        raise DataError("its two tables do not say which rows belong together", file=path, mend=mend)
    return CodeRows(np.concatenate([identities[owner], expressions], axis=1), people=owner)


def _from_arrays(path: Path) -> CodeRows:
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if path.suffix == ".npy":
                return CodeRows(np.asarray(loaded, np.float32))
            people = loaded["people"] if "people" in loaded else None
            return CodeRows(np.asarray(loaded["codes"], np.float32), people=people)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"is not a readable code table: {error}", file=path, mend="save [N, L] as `codes`") from error


def _owners(path: Path, identities: int, expressions: int) -> np.ndarray | None:
    """[expressions] identity row of each expression row; None where the lists are absent.

    The expression list holds everyone's numbers one after the other; a new person begins wherever a number
    is not larger than the one before it (spec dphm 8.2).
    """
    checkpoint = newest_checkpoint(path)
    files = [checkpoint.parent.parent / name for name in (SUBJECTS, EXPRESSIONS)]
    if checkpoint.suffix == ".safetensors" or not all(file.is_file() for file in files):
        return None
    subjects, numbers = (read_json(file) for file in files)
    owner = np.cumsum([0, *(after <= before for before, after in zip(numbers, numbers[1:], strict=False))])
    found = len(subjects), len(numbers), int(owner[-1]) + 1
    if found != (identities, expressions, identities):
        says = f"lists {found[1]} expressions of {found[2]} people, its tables hold {expressions} and {identities}"
        raise DataError(says, file=files[1], mend="give an .npz of joined codes instead")
    return owner
