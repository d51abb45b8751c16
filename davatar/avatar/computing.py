"""How an avatar computes its pictures, whatever they show: on which device and in which number format.

`davatar render` and `davatar eval` prepare an avatar here, so that both follow the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from davatar.avatar.model import Avatar
from davatar.avatar.precision import Precision, for_painting


@dataclass(frozen=True)
class Computing:
    device: str = "cpu"
    precision: Precision = "auto"  # see `precision.for_painting`
    compat: bool = False  # the published way of sampling

    def prepare(self, avatar: Avatar, trained: str = "auto") -> dict[str, Any]:
        """Make an opened avatar ready to paint.

        Args:
            trained: the precision that the run's settings name.

        Returns:
            What of this the pictures depend on, by name.
        """
        kind = "published" if "published" in avatar.kind else "tiny"
        precision = for_painting(self.precision, kind, self.device, trained, self.compat)
        avatar.to(self.device)
        avatar.compute_in(precision)
        return {"precision": str(precision).removeprefix("torch.")}
