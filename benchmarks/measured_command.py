"""Wall time and peak memory of a command and of all processes that it starts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path
from threading import Event, Thread

_EVERY = 0.25  # seconds between two looks at the memory


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: wall time.
        peak_bytes: the largest that the processes had in memory together, what they share counted once (of
            the one that has most of it); ``None`` where there is no ``/proc``.
    """

    seconds: float
    peak_bytes: int | None


def measure_command(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    with log.open("w", encoding="utf-8") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(environment), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
        )
        with _Watch(process.pid) as watch:
            code = process.wait()
        seconds = time.perf_counter() - start
    if code:
        raise RuntimeError(f"{command[0]} ended with {code}:\n{log.read_text(encoding='utf-8')[-2000:]}")
    return Measured(seconds, watch.peak or None)


class _Watch:
    """Looks at the memory of a process and its descendants in a thread."""

    def __init__(self, pid: int) -> None:
        self.peak, self._pid, self._stop = 0, pid, Event()
        self._thread = Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_EVERY):
            self.peak = max(self.peak, _resident_bytes(_family(self._pid)))


def _family(pid: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if entry.name.isdigit():
            try:
                # The name in brackets may hold spaces; the parent is the second field behind it.
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _resident_bytes(pids: Sequence[int]) -> int:
    """What the processes have to themselves, and the largest of the parts that they may share.

    From counters that the kernel keeps anyway. Counting shared pages exactly (``smaps_rollup``) walks through
    all of a process's pages and halts it while it asks for memory: nnU-Net then took half as long again.
    """
    own, shareable = 0, 0
    for pid in pids:
        try:
            _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        except (OSError, ValueError):  # it has just ended
            continue
        own += resident - shared
        shareable = max(shareable, shared)
    return (own + shareable) * PAGESIZE
