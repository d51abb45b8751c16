"""Where networks compute: a device is tried before anything long begins."""

from __future__ import annotations

from davatar.core.errors import MissingError


def check_device(name: str) -> None:
    """
    Args:
        name: as torch names it: cpu, cuda, cuda:1, mps, ...

    Raises:
        MissingError: this machine has no such device, or torch cannot use it.
    """
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]  # what follows is advice
        raise MissingError(f"device {name!r} cannot be used: {reason}", mend="choose --device cpu") from error
