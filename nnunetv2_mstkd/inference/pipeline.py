"""Reading ahead and writing behind while one thread computes.

Threads, not processes: reading, decompression, resampling and torch release the interpreter's lock where
their time goes; a thread needs no pickled copy of each volume and no seconds for importing torch; and none
can be killed alone, leaving the others waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """An item that left the pipeline: its result, or the exception that stopped it."""

    item: Item
    result: Result | None = None
    error: Exception | None = None


def staged(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Result],
    *,
    readers: int,
    writers: int,
) -> Iterator[Outcome[Item, Result]]:
    """Pass each item through three stages; yield the outcomes in the order in which they end.

    Args:
        read: runs in ``readers`` threads; at most that many items are read ahead.
        compute: runs in the calling thread, in the order of ``items``.
        write: runs in ``writers`` threads; at most one more item than that is waiting to be written.

    An exception in any stage ends its item only. When the caller stops early, items that have not been begun
    are dropped.
    """
    source = iter(items)
    ahead: deque[tuple[Item, Future[Read]]] = deque()
    behind: dict[Future[Result], Item] = {}
    reading, writing = ThreadPoolExecutor(max(1, readers)), ThreadPoolExecutor(max(1, writers))

    def top_up() -> None:
        while len(ahead) < max(1, readers):
            item = next(source, _END)
            if item is _END:
                return
            ahead.append((item, reading.submit(read, item)))

    try:
        top_up()
        while ahead:
            item, future = ahead.popleft()
            wait([future])  # before reading on, or a slow reader would have one more volume in memory
            top_up()
            try:
                behind[writing.submit(write, compute(future.result()))] = item
            except Exception as error:
                yield Outcome(item, error=error)
                _let_frames_go(error)  # before the next item is computed
            del future  # holds a volume
            yield from _finished(behind, allowed=max(1, writers))
        yield from _finished(behind, allowed=0)
    finally:
        reading.shutdown(cancel_futures=True)
        writing.shutdown(cancel_futures=True)


def _let_frames_go(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of what led to it: frames hold what the item had on the GPU."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


_END: Any = object()


def concurrently(
    items: Iterable[Item], function: Callable[[Item], Result], *, threads: int
) -> Iterator[Outcome[Item, Result]]:
    """The pipeline with one stage only, run in ``threads`` threads."""
    return staged(items, function, _same, _same, readers=threads, writers=1)


def _same(value: Any) -> Any:
    return value


def _finished(behind: dict[Future[Result], Item], *, allowed: int) -> Iterator[Outcome[Item, Result]]:
    """Take out what is written; wait until at most ``allowed`` items are left."""
    while behind:
        done = [future for future in behind if future.done()]
        if not done and len(behind) <= allowed:
            return
        for future in done or wait(behind, return_when=FIRST_COMPLETED).done:
            item, error = behind.pop(future), future.exception()
            if error is None:
                yield Outcome(item, result=future.result())
            elif isinstance(error, Exception):
                yield Outcome(item, error=error)
            else:
                raise error
