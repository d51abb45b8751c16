"""Every error a user can meet, with its exit code.

    DavatarError           1  internal: a defect of ours
    ├── UsageError         2  the command line or a setting is wrong
    │   └── ConfigError    2  a configuration key or value is wrong
    ├── DataError          3  an input file or array is wrong
    ├── MissingError       4  weights, data or an optional package is absent
    ├── VerificationError  5  a check did not hold
    ├── ResourceError      6  out of disk or memory
    └── Interrupted      130  stopped by the user; the work resumes

An error is one sentence, the file it is about, and the mend. Exceptions of other libraries are
translated where they are caught, with `raise ... from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class DavatarError(Exception):
    """One sentence for the user.

    Args:
        message: what was found and what was expected.
        file: the file it is about, printed in front of the message.
        mend: what to do, as an imperative.
    """

    exit_code = 1

    def __init__(self, message: str, *, file: str | Path | None = None, mend: str | None = None):
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.mend = mend

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        mend = f" ({self.mend})" if self.mend else ""
        return f"{where}{self.message}{mend}"


class UsageError(DavatarError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(DavatarError):
    exit_code = 3


class MissingError(DavatarError):
    exit_code = 4


class VerificationError(DavatarError):
    exit_code = 5


class ResourceError(DavatarError):
    exit_code = 6


class Interrupted(DavatarError):
    exit_code = 130


def listed(names: Sequence[object], most: int = 8) -> str:
    """Names for a message, the first `most` of them: "a, b and 12 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
