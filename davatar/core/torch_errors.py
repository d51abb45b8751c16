"""Why torch could not read an archive, said shortly: its own words are an essay with advice to run what is stored."""

from __future__ import annotations

import errno
import pickle
import zipfile

# What a damaged archive makes torch raise, depending on where the damage is.
UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)


def unreadable(error: Exception) -> str:
    """Why `torch.load(..., weights_only=True)` failed, as the second half of a sentence."""
    if isinstance(error, pickle.UnpicklingError) or "legacy" in str(error):
        return "it is no torch archive, or holds more than tensors and plain values"
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: an index that leads nowhere
        return error.strerror or str(error)
    return "it is truncated or damaged"
