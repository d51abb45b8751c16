"""OpenCTM meshes, as the published tracker stores them: the RAW and MG1 kinds (spec diffusion-avatars 1.1).

Vertices and triangles only; uv maps, normals and attributes are passed over.
"""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

import numpy as np

from davatar.core.errors import DataError

_HEADER = struct.Struct("<4sI4sIIIIII")


def read_ctm(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] float32 and triangles [F, 3] int32, in the file's own frame and order.

    Raises:
        DataError: absent, truncated, or no such file.
    """
    path = Path(path)
    try:
        return _decoded(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError("is missing", file=path, mend="fetch the recording again") from error
    except (struct.error, ValueError, IndexError, lzma.LZMAError) as error:
        raise DataError(f"is not a readable CTM mesh: {error}", file=path, mend="fetch the recording again") from error


def _decoded(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    magic, version, method, vertices, triangles, _, _, _, comment = _HEADER.unpack_from(data)
    if magic != b"OCTM" or version != 5 or method not in (b"RAW\0", b"MG1\0"):
        raise ValueError(f"{magic!r} version {version} method {method!r}")
    at = _HEADER.size + comment
    blocks = {}
    for tag, count in ((b"INDX", 3 * triangles), (b"VERT", 3 * vertices)):
        if data[at : at + 4] != tag:
            raise ValueError(f"no block {tag.decode()} at byte {at}")
        if method == b"RAW\0":
            raw, at = data[at + 4 : at + 4 + 4 * count], at + 4 + 4 * count
            blocks[tag] = np.frombuffer(raw, "<u4")
        else:
            (size,) = struct.unpack_from("<I", data, at + 4)
            blocks[tag] = _unpacked(data[at + 8 : at + 13], data[at + 13 : at + 13 + size], count)
            at += 13 + size
        if len(blocks[tag]) != count:
            raise ValueError(f"block {tag.decode()} is cut short")
    if method == b"RAW\0":
        index = blocks[b"INDX"].reshape(-1, 3)
    else:
        index = _undone(blocks[b"INDX"].reshape(3, -1).T)
    if index.max(initial=0) >= vertices:
        raise ValueError(f"triangles reach vertex {index.max()} of {vertices}")
    return blocks[b"VERT"].view("<f4").reshape(-1, 3).astype(np.float32), index.astype(np.int32)


def _unpacked(properties: bytes, packed: bytes, count: int) -> np.ndarray:
    """[count] uint32 from LZMA data that holds four byte planes, most significant first."""
    header = properties + struct.pack("<Q", 4 * count)  # the stream has no end mark: its length must be told
    raw = lzma.decompress(header + packed, lzma.FORMAT_ALONE)
    planes = np.frombuffer(raw, np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T[:, ::-1]).view("<u4")[:, 0]


def _undone(deltas: np.ndarray) -> np.ndarray:
    """[F, 3] indices from the differences that MG1 stores."""
    first = np.cumsum(deltas[:, 0], dtype=np.int64)
    third = first + deltas[:, 2]
    second = deltas[:, 1].astype(np.int64)
    starts = np.flatnonzero(np.r_[True, np.diff(first) != 0])  # within a run of one first index, seconds add up
    second[starts] += first[starts]
    run = np.cumsum(second)
    offset = np.r_[0, run[starts[1:] - 1]] if len(starts) else run
    second = run - np.repeat(offset, np.diff(np.r_[starts, len(second)]))
    return np.stack([first, second, third], axis=1)
