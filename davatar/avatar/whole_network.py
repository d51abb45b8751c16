"""Networks of other people's weight files, read whole: every number is there, and none is left over.

diffusers takes a file that lacks some of a network's tensors, or holds others, and warns; the lacking ones have no
numbers then, and the first use of them fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging
from torch import nn

from davatar.core.errors import DataError

WEIGHTS = "diffusion_pytorch_model.safetensors"

Network = TypeVar("Network", bound=ModelMixin)


def load_whole(kind: type[Network], folder: Path, what: str, mend: str, **options: bool) -> Network:
    """A network from its folder in diffusers layout.

    Args:
        kind: class of the network.
        what: it is, for the error: "is not a readable <what>".
        options: further ones of diffusers' `from_pretrained`.

    Raises:
        DataError: a file of it is not readable, or its tensors are not those of the network that its config
            describes; names the first that is missing, unknown or of another size.
    """
    try:
        with quiet():
            network, found = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        raise DataError(f"is not a readable {what}: {first_line(error)}", file=folder, mend=mend) from error
    if found["mismatched_keys"]:
        name, size, expected = min(found["mismatched_keys"])
        wrong = f"{name} is {tuple(size)}, expected {tuple(expected)}"
    elif missing := missing_tensor(network):
        wrong = f"{missing} is missing"
    elif found["unexpected_keys"]:
        wrong = f"it has no place for {min(found['unexpected_keys'])}"
    else:
        return network
    file = folder / WEIGHTS if (folder / WEIGHTS).is_file() else folder  # several files, or an older kind
    raise DataError(f"does not hold the {what} that config.json beside it describes: {wrong}", file=file, mend=mend)


def missing_tensor(network: nn.Module) -> str | None:
    """Name of the first parameter that diffusers found no numbers for."""
    return next((name for name, parameter in network.named_parameters() if parameter.is_meta), None)


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers keeps its warnings of missing and unused tensors to itself: they are told as errors here."""
    before = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before)


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
