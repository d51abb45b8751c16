"""Stopping well: Ctrl-C and SIGTERM end a long job after the item in hand, with everything saved.

    with interruptible() as stop:
        for item in items:
            work(item)              # saves its own result atomically
            stop.check("run the command again to go on")

The first signal sets `stop.requested`; a second one stops at once. A block that ends by itself after
a signal still raises `Interrupted`, so that no signal is lost between two stages.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from davatar.core.errors import Interrupted

RESUME = "run the same command again to resume"


class Stop:
    requested: bool = False  # a signal arrived: finish the item, save, then call `check`

    def check(self, mend: str = RESUME) -> None:
        """
        Raises:
            Interrupted: a signal arrived since the block began.
        """
        if self.requested:
            raise Interrupted("stopped; what was finished is saved", mend=mend)


@contextmanager
def interruptible(mend: str = RESUME) -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM while the block runs; outside the main thread it only yields a `Stop`.

    Raises:
        Interrupted: a signal arrived and the block did not raise by itself.
        KeyboardInterrupt: a second signal arrived while the first one waited for the item to end.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number, frame):
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    stop.check(mend)
