"""Whether two pictures show the same face: distances of landmarks and of embeddings (spec diffusion-avatars 9.4).

Arrays in, numbers out. What finds landmarks or embeddings in a picture is a plugin's business.
"""

from __future__ import annotations

import numpy as np

FACE = slice(33, None)  # of the 98 WFLW landmarks: without the jaw line
NOTHING = -1.0  # value where no frame could be compared


def landmark_distance(
    prediction: np.ndarray, target: np.ndarray, detected: np.ndarray | None = None, part: slice = slice(None)
) -> float:
    """Average keypoint distance (AKD), px: mean over frames of the mean distance of their landmarks.

    Args:
        prediction, target: [N, 98, 2] px.
        detected: [N] bool, a face was found in both pictures; None = in all.
        part: `FACE` for the value without the jaw line.

    Returns:
        -1 if no frame counts.
    """
    distances = np.linalg.norm(prediction[:, part] - target[:, part], axis=-1).mean(1)
    return _mean(distances, detected)


def embedding_similarity(prediction: np.ndarray, target: np.ndarray, detected: np.ndarray | None = None) -> float:
    """Identity similarity (CSIM): mean over frames of the cosine of the angle between embeddings [N, D]; -1 if none."""
    lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(target, axis=-1)
    return _mean((prediction * target).sum(-1) / lengths, detected)


def _mean(values: np.ndarray, detected: np.ndarray | None) -> float:
    kept = values if detected is None else values[np.asarray(detected, bool)]
    return float(kept.mean()) if len(kept) else NOTHING
