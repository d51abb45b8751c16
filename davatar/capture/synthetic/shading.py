"""Light on a surface: fixed studio lamps, wrapped diffuse light, a Blinn highlight, no cast shadows.

Linear RGB in, sRGB out. Directions are unit vectors in the studio world. Shadows would couple distant parts of
the face; instead the light that reaches a point is scaled by the share of the sky that it sees at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from davatar.capture.synthetic.noise import unit


@dataclass(frozen=True)
class Lamp:
    toward: tuple[float, float, float]  # from the head to the lamp, studio axes
    color: tuple[float, float, float]  # linear


LAMPS = (
    Lamp((0.50, 0.55, 0.67), (1.52, 1.44, 1.32)),  # key, warm, above the subject's left
    Lamp((-0.80, 0.15, 0.58), (0.50, 0.55, 0.62)),  # fill, cool
    Lamp((-0.25, 0.55, -0.80), (0.75, 0.78, 0.85)),  # rim, from behind
)
SKY, GROUND = np.float32([0.44, 0.46, 0.50]), np.float32([0.25, 0.21, 0.19])
WRAP = np.float32([0.42, 0.24, 0.18])  # red light travels farther inside skin


def shade(
    albedo: np.ndarray,
    normal: np.ndarray,
    to_eye: np.ndarray,
    openness: np.ndarray,
    gloss: np.ndarray,
    sharpness: np.ndarray,
    scatter: np.ndarray,
) -> np.ndarray:
    """
    Args:
        albedo: [N, 3] linear.
        normal: [N, 3] unit, studio axes.
        to_eye: [N, 3] unit, toward the camera, studio axes.
        openness: [N] 0..1 share of the sky seen.
        gloss: [N] strength of the highlight, 1 = ordinary skin.
        sharpness: [N] Blinn exponent.
        scatter: [N] 0..1, how much light wraps around the edge of the shadow (skin 1, hair and eyes less).

    Returns:
        [N, 3] sRGB 0..1.
    """
    normal, to_eye = normal.astype(np.float32), to_eye.astype(np.float32)
    up = (0.5 + 0.5 * normal[:, 1])[:, None]
    light = (GROUND + up * (SKY - GROUND)) * openness[:, None]
    reach = np.clip(0.25 + 1.1 * openness, 0, 1)[:, None]
    wrap = WRAP * scatter[:, None]
    facing = np.maximum(np.einsum("nc,nc->n", normal, to_eye), 0)
    fresnel = 0.035 + 0.35 * (1 - facing) ** 5
    shine = np.zeros_like(albedo)
    for lamp in LAMPS:
        toward, color = np.float32(lamp.toward), np.float32(lamp.color)
        toward = toward / np.linalg.norm(toward)
        cosine = normal @ toward
        light = light + reach * color * np.maximum((cosine[:, None] + wrap) / (1 + wrap), 0)
        half = unit(to_eye + toward)
        blinn = np.maximum(np.einsum("nc,nc->n", normal, half), 0) ** sharpness * (sharpness + 8) / 25
        shine += (blinn * np.maximum(cosine, 0))[:, None] * color
    shine *= (fresnel * gloss)[:, None] * reach
    return encode(0.74 * (albedo * light + shine))


def encode(linear: np.ndarray) -> np.ndarray:
    """Linear -> sRGB 0..1; highlights bend smoothly towards 1 above 0.7 instead of being cut."""
    over = np.maximum(linear - 0.7, 0)
    soft = np.clip(np.minimum(linear, 0.7) + 0.3 * (1 - np.exp(-over / 0.3)), 0, 1)
    return np.where(soft <= 0.0031308, 12.92 * soft, 1.055 * np.power(np.maximum(soft, 1e-6), 1 / 2.4) - 0.055)
