"""The metric contract, and how metrics are asked for by name.

A metric compares pictures: float [N, 3, H, W], sRGB 0..1, prediction first. It enters through the
plugin group `davatar.metrics`: an entry point is a class or function without arguments that returns
a `Metric`. Built-in ones live in `pixel`; averages over frames, sequences and cameras in `aggregate`.
A metric that cannot be used here costs its own value and a reason, never the evaluation.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Protocol

import torch

from davatar.core import plugins
from davatar.core.errors import DataError, DavatarError, UsageError

GROUP = "davatar.metrics"


class Metric(Protocol):
    """A plugin may also set `scope = "clip"`: it then gets all frames of one camera and sequence at once."""

    name: str  # key in the result
    higher_is_better: bool

    def __call__(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> float:
        """
        Args:
            prediction, target: [N, 3, H, W] float32, 0..1.
            mask: [N, H, W] float 0..1, or None for the whole picture; only what it covers counts.

        Returns:
            One finite number for the batch, or -1 if nothing could be compared.

        Raises:
            MissingError: weights or a package are absent; the message says how to get them.
            DataError: pictures of this size or kind cannot be compared; the message says why.
        """


WELL_KNOWN = {  # name -> what it is made of; these need networks that others publish
    "lpips": "the package lpips",
    "jod": "the package pyfvvdp",
    "akd": "a face detector and a landmark network (published: FaceBoxesV2 and PIPNet)",
    "akd_face": "a face detector and a landmark network (published: FaceBoxesV2 and PIPNet)",
    "csim": "the package insightface",
    "flip": "the package flip-evaluator: the sources hold plugins/davatar-flip",
}


@dataclass(frozen=True)
class MetricSet:
    metrics: dict[str, Metric]  # in the order asked for
    unavailable: dict[str, str]  # name -> why it has no value


def open_metrics(names: list[str] | tuple[str, ...]) -> MetricSet:
    """Load metrics by their entry-point names; a well-known one that is not installed is unavailable, not wrong.

    Raises:
        UsageError: no plugin, or more than one, has that name (the message names the nearest one).
    """
    found, unavailable = {}, {}
    installed = plugins.names(GROUP)
    for name in dict.fromkeys(names):
        if name in WELL_KNOWN and name not in installed:
            unavailable[name] = (
                f"no plugin for {name} is installed; pip install one, or wrap {WELL_KNOWN[name]} in your own: "
                f"davatar plugins new metric {name}"
            )
            continue
        if name not in installed:
            near = difflib.get_close_matches(name, [*installed, *WELL_KNOWN], n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(installed)}"
            raise UsageError(f"no metric is called {name!r}", mend=mend)
        try:
            metric = plugins.load(GROUP, name)()
            missing = [part for part in ("name", "higher_is_better") if not hasattr(metric, part)]
            if missing or not callable(metric):
                raise DataError(f"is no metric: lacks {', '.join(missing) or '__call__'}")
            found[name] = metric
        except UsageError:
            raise
        except Exception as error:  # a foreign plugin may fail in any way; its reason goes into the result
            unavailable[name] = reason_of(error)
    return MetricSet(found, unavailable)


def reason_of(error: Exception) -> str:
    return str(error) if isinstance(error, DavatarError) else f"{type(error).__name__}: {error}"


def measure(
    metric: Metric, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[float | None, str]:
    """Call a metric whose author we do not know: (value, "") or (None, why there is none)."""
    check_pair(prediction, target, mask)
    try:
        value = float(metric(prediction, target, mask))
    except Exception as error:  # as above: the reason is recorded and the other metrics go on
        return None, reason_of(error)
    if not math.isfinite(value):
        return None, f"returned {value}"
    return value, ""


def check_pair(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """
    Raises:
        DataError: shapes, type or range are not those of the contract.
    """
    for name, value in (("prediction", prediction), ("target", target)):
        if value.ndim != 4 or value.shape[1] != 3 or not value.is_floating_point():
            raise DataError(f"{name} is {value.dtype} {list(value.shape)}, expected float [N, 3, H, W]")
        if not all(torch.isfinite(picture).all() for picture in value):  # one by one: a clip may not fit in memory
            raise DataError(f"{name} holds non-finite values")
    if prediction.shape != target.shape:
        raise DataError(f"prediction is {list(prediction.shape)}, target {list(target.shape)}: they must be equal")
    size = (len(target), *target.shape[2:])
    if mask is not None and tuple(mask.shape) != size:
        raise DataError(f"mask is {list(mask.shape)}, expected {list(size)}")
