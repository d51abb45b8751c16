"""What the checks of the published avatar share: recognising a fixture, its companions, and the avatar behind it.

A folder of that layout holds numbers (`<section letter>_<anything>.npz|json`), one model archive, the frozen base
it was trained on, and data; all are found by what is in them (spec diffusion-avatars; README beside the fixtures).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from davatar.avatar.published import ImageBatch, PublishedAvatar
from davatar.avatar.published_checkpoint import open_published
from davatar.checks.verify.comparison import Comparison, compare
from davatar.checks.verify.fixture import array_names, device, read_arrays, read_json, tensor
from davatar.core.errors import DataError, MissingError

NETWORK = 1e-5  # float32 networks evaluated in another order of operations
LATENTS = 1e-4  # the same, after several steps of a sampler
GRADIENT = 1e-4  # share of the largest entry
GREY_LEVELS = 2  # of 255, in painted pictures


def names_in(path: Path) -> frozenset[str]:
    """Names at the top of an .npz or .json file; empty for anything else."""
    if path.suffix != ".json":
        return array_names(path)
    try:
        content = read_json(path)
    except DataError:
        return frozenset()
    return frozenset(content) if isinstance(content, dict) else frozenset()


def holding(letter: str, *names: str, without: tuple[str, ...] = ()) -> Callable[[Path], bool]:
    """A recogniser: a file of the section that holds all `names` and none of `without`."""

    def recognises(path: Path) -> bool:
        if not path.name.startswith(f"{letter}_"):
            return False
        found = names_in(path)
        return found.issuperset(names) and found.isdisjoint(without)

    return recognises


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The numbers of a fixture on the device of the checks; texts are left out."""
    return {name: tensor(x).reshape(x.shape) for name, x in read_arrays(path).items() if x.dtype.kind in "fiub"}


def near(
    path: Path,
    quantity: str,
    found: torch.Tensor | np.ndarray | float,
    expected: torch.Tensor | np.ndarray | float,
    tolerance: float = NETWORK,
    relative: bool = False,
) -> Comparison:
    """`compare` for tensors of any device."""
    plain = (x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (found, expected))
    return compare(path.name, quantity, *plain, tolerance, relative)


def companion(path: Path, *names: str) -> Path:
    """The file beside a fixture, whatever its section, that holds what it builds on.

    Raises:
        MissingError: there is none.
    """
    for file in sorted(path.parent.iterdir()):
        if file != path and names_in(file).issuperset(names):
            return file
    raise MissingError(f"lies beside no file with {', '.join(names)}", file=path, mend="copy the folder whole")


def archive_of(folder: Path) -> Path:
    """The model archive below a folder of fixtures."""
    return below(folder, "model_config.json").parent


def base_of(folder: Path) -> Path:
    """The frozen base below a folder of fixtures."""
    return below(folder, "unet/config.json").parent.parent


def below(folder: Path, pattern: str) -> Path:
    """The first file of that name below a folder.

    Raises:
        MissingError: there is none.
    """
    found = min(folder.rglob(pattern), default=None)
    if found is None:
        raise MissingError(f"holds no {pattern}", file=folder, mend="copy the folder whole")
    return found


def avatar_of(folder: Path) -> PublishedAvatar:
    """The archive's avatar at its latest checkpoint, shared among checks: nobody may train it."""
    return _opened(folder, str(device()))


@lru_cache(maxsize=2)
def _opened(folder: Path, where: str) -> PublishedAvatar:
    return open_published(archive_of(folder), base=str(base_of(folder)))[0].to(where)


def archive_config(folder: Path, name: str) -> dict[str, Any]:
    return read_json(archive_of(folder) / f"{name}.json")


def conditions_beside(path: Path) -> ImageBatch:
    """The samples that networks, losses and samplers of a folder were run on."""
    return batch_of(tensors(companion(path, "rendered", "neural", "ambient", "expression_codes")))


def batch_of(found: dict[str, torch.Tensor]) -> ImageBatch:
    return ImageBatch(
        rendered=found["rendered"],
        mask=found["mask"][:, 0],
        expression=found["expression_codes"],
        participant=torch.zeros(len(found["rendered"]), dtype=torch.int64, device=found["rendered"].device),
        image=found["target_images"],
    )
