"""Compiling the network that every sampling step calls: the same numbers within rounding, sooner after a slow start.

It needs a C++ compiler on a CPU and Triton on a GPU. Whether both work is tried on a sum of two numbers first, so
that a machine without them goes on uncompiled instead of failing in the middle.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from davatar.avatar.model import Avatar
from davatar.core.progress import log

Backend = str | Callable
BACKEND: Backend = "inductor"


def compile_denoiser(avatar: Avatar, backend: Backend | None = None) -> bool:
    """Compile an avatar's denoiser in place, on the device where it is; the first pictures of each size take minutes.

    Args:
        backend: what turns the network's graph into code: a name that `torch.compile` knows, or a function of the
            graph and example inputs that returns what to call; None = `BACKEND`.

    Returns:
        False where this machine cannot compile: said in a warning, and nothing is changed.
    """
    backend = backend or BACKEND
    if reason := trouble(next(avatar.parameters()).device, backend):
        log.warning("networks cannot be compiled here (%s): going on without", reason)
        return False
    avatar.compile_denoiser(backend=backend)
    return True


def trouble(device: torch.device, backend: Backend) -> str | None:
    """Why nothing can be compiled for a device; None where it can."""
    one = torch.ones(2, device=device)
    try:
        torch.compile(torch.add, backend=backend)(one, one)
    except Exception as error:  # compilers fail in many ways, and none of them matters more than the pictures
        cause = getattr(error, "inner_exception", error)  # torch wraps what the compiler threw
        return (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return None
