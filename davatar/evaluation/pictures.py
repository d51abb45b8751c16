"""Pictures for eyes: error maps, side-by-side strips, and the bytes that a web page or an evaluation folder holds.

[H, W, 3] uint8 sRGB in; PNG, JPEG or H.264 bytes out. Files are written by whoever asks.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from davatar.core.errors import DataError


def error_map(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Turbo colours of the summed absolute error of the three channels (1.0 and more = darkest red), as published."""
    from matplotlib import colormaps

    total = np.abs(prediction / 255.0 - target / 255.0).sum(-1)
    return (colormaps["turbo"](np.clip(total, 0, 1))[..., :3] * 255).astype(np.uint8)


def strip(images: list[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures of one height side by side, white between them."""
    height = max(len(image) for image in images)
    columns = []
    for image in images:
        columns.append(np.pad(image, ((0, height - len(image)), (0, gap), (0, 0)), constant_values=255))
    return np.concatenate(columns, axis=1)[:, : -gap or None]


def stack(rows: list[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures one under another, padded with white to the widest."""
    return strip([row.transpose(1, 0, 2) for row in rows], gap).transpose(1, 0, 2)


def png_bytes(image: np.ndarray) -> bytes:
    """[H, W], [H, W, 3] uint8 -> PNG."""
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def jpeg_bytes(image: np.ndarray, quality: int = 92) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def read_picture(path: str | Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB, or [H, W] uint8 for a grey file.

    Raises:
        DataError: the file is absent or truncated.
    """
    path = Path(path)
    data = path.read_bytes() if path.is_file() else b""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise DataError("is missing or is not a readable picture", file=path, mend="delete it and evaluate again")
    return image[..., 2::-1] if image.ndim == 3 else image


def video_bytes(frames: Iterable[np.ndarray], fps: float = 24) -> bytes:
    """H.264 in MP4 that any browser plays; odd sizes lose their last row or column.

    Raises:
        DataError: there are no frames.
    """
    from fractions import Fraction

    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = None
        for image in frames:
            image = np.ascontiguousarray(image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], "yuv420p"
                stream.options = {"crf": "20", "preset": "veryfast"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if stream is None:
            raise DataError("a video needs at least one frame")
        container.mux(stream.encode())
    return target.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes -> text that stands for a file inside a page; `kind` like "image/png", "video/mp4"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
