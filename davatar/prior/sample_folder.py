"""The folder that sampled heads go to: an earlier run's files there are replaced, nobody else's are touched.

`codes.npz` is the mark of such a folder. It is written before the meshes and lists their files, so that what a
stopped run left is known too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from davatar.core.errors import UsageError, listed
from davatar.core.files import atomic_path
from davatar.prior.heads import SampledCodes

CODES, SHEET = "codes.npz", "heads.png"
_KEYS = {"identity", "expression", "head_model", "files"}


def mesh_name(head: int, format: str) -> str:
    return f"{head:05d}.{format}"


def start_folder(folder: Path, codes: SampledCodes, head_model: str, writes: set[str]) -> list[str]:
    """Remove what an earlier run left in `folder` and write the new codes.

    Args:
        head_model: hash of the head model that the codes are for.
        writes: names of the files that are about to be written there, besides codes.npz.

    Returns:
        Names of the files that are gone or will be replaced, sorted.

    Raises:
        UsageError: a file that no earlier run made stands in the way; nothing has been changed.
    """
    earlier = _made_before(folder)
    foreign = sorted(name for name in writes | {CODES} if name not in earlier and (folder / name).exists())
    if foreign:
        mend = "choose another folder with --out"
        raise UsageError(f"holds {listed(foreign, 3)}, which no earlier sampling made", file=folder, mend=mend)
    replaced = sorted(name for name in earlier if (folder / name).is_file())
    for name in replaced:
        (folder / name).unlink()
    arrays = {"identity": codes.identity.numpy(), "expression": codes.expression.numpy(), "head_model": head_model}
    arrays["files"] = np.array(sorted(writes | {CODES}))
    with atomic_path(folder / CODES) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    return replaced


def _made_before(folder: Path) -> set[str]:
    """Names that an earlier run wrote into `folder`, or meant to; empty where its list is absent or not ours."""
    try:
        with np.load(folder / CODES, allow_pickle=False) as archive:
            if not _KEYS <= set(archive):
                return set()
            names = {str(name) for name in archive["files"]}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile):
        return set()
    return {name for name in names if Path(name).name == name}  # nothing outside the folder, whatever the list says
