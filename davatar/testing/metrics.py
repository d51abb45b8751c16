"""The battery of `evaluation.metric.Metric`: pictures float [N, 3, H, W] 0..1 in, one finite number out."""

from __future__ import annotations

import math

import torch

from davatar.evaluation.metric import Metric
from davatar.testing.require import require

HEIGHT, WIDTH = 192, 176  # large enough for five-scale metrics, and not square


def check_metric(metric: Metric) -> None:
    """
    Raises:
        VerificationError: the metric breaks its contract.
        MissingError: the metric's own: weights or a package are absent.
    """
    name = getattr(metric, "name", None)
    require(isinstance(name, str) and bool(name), f"metric.name is {name!r}, expected a word")
    better = getattr(metric, "higher_is_better", None)
    require(isinstance(better, bool), f"{name}: higher_is_better is {better!r}, expected True or False")
    require(callable(metric), f"{name} cannot be called")
    target, slightly, badly = _pictures()
    for count in (1, 2):
        equal, near, far = (_value(metric, picture[:count], target[:count]) for picture in (target, slightly, badly))
        ordered = equal >= near > far if better else equal <= near < far
        require(
            ordered,
            f"{name} of equal, slightly and badly wrong pictures is {equal:g}, {near:g}, {far:g}: "
            f"{'higher' if better else 'lower'} should be better",
        )
    again = _value(metric, slightly, target)
    require(_value(metric, slightly, target) == again, f"{name} differs between two calls on the same pictures")
    _check_mask(metric, target)


def _check_mask(metric: Metric, target: torch.Tensor) -> None:
    """What lies far outside the mask does not count; what lies inside does."""
    mask = torch.zeros(len(target), HEIGHT, WIDTH)
    mask[..., : WIDTH // 3] = 1
    outside, inside = target.clone(), target.clone()
    outside[..., WIDTH - WIDTH // 4 :] = 1 - outside[..., WIDTH - WIDTH // 4 :]
    inside[..., : WIDTH // 4] = 1 - inside[..., : WIDTH // 4]
    clean, spoiled = _value(metric, target, target, mask), _value(metric, outside, target, mask)
    require(
        math.isclose(clean, spoiled, rel_tol=1e-3, abs_tol=1e-3),
        f"{metric.name} changes from {clean:g} to {spoiled:g} by an error outside the mask",
    )
    seen = _value(metric, inside, target, mask)
    worse = seen < clean if metric.higher_is_better else seen > clean
    require(worse, f"{metric.name} does not see an error inside the mask: {clean:g} became {seen:g}")


def _pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two smooth coloured pictures, the same a little noisy, the same very noisy."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 12, 11, generator=generator)
    target = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    noise = torch.randn(target.shape, generator=generator)
    return target, (target + 0.02 * noise).clamp(0, 1), (target + 0.3 * noise).clamp(0, 1)


def _value(metric: Metric, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    given = prediction.clone(), target.clone()
    value = metric(prediction, target, mask)
    untouched = torch.equal(given[0], prediction) and torch.equal(given[1], target)
    require(untouched, f"{metric.name} writes into the pictures it is given")
    number = isinstance(value, float | int) and not isinstance(value, bool)
    require(number, f"{metric.name} returned a {type(value).__name__}, expected a float")
    require(math.isfinite(value), f"{metric.name} returned {value}, expected a finite number")
    return float(value)
