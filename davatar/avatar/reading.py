"""Frames of a data set that is too large to keep in memory, read by threads while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from davatar.avatar.conditioning import HeadMaps

THREADS = 4


class ReadAhead(Sequence[HeadMaps]):
    """
    Args:
        read: index -> frame; called by several threads.
        count: how many frames there are.
    """

    def __init__(self, read: Callable[[int], HeadMaps], count: int, threads: int = THREADS):
        self._read, self._count = read, count
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="frames")
        self._coming: dict[int, Future[HeadMaps]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> HeadMaps:
        coming = self._coming.pop(index, None)
        return self._read(index) if coming is None else coming.result()

    def expect(self, indices: Iterable[int]) -> None:
        """These are asked for soon; what was expected before and not asked for is dropped."""
        wanted = set(indices)
        for index in self._coming.keys() - wanted:
            self._coming.pop(index).cancel()
        for index in wanted - self._coming.keys():
            self._coming[index] = self._threads.submit(self._read, index)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
