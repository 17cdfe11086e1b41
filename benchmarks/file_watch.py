"""Waiting until a process opens a file, told by the kernel (inotify): Linux only."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError

_IN_OPEN = 0x20  # linux/inotify.h
_EVENT = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name behind it


class Watch:
    """Files whose openings are waited for; made by :func:`watching`."""

    def __init__(self, handle: int, names: dict[int, Path]) -> None:
        self._handle = handle
        self._names = names

    def opened(self, timeout: float) -> list[Path]:
        """The files that were opened since the last call, in order; empty after ``timeout`` seconds."""
        if not select.select([self._handle], [], [], timeout)[0]:
            return []
        content, position, found = os.read(self._handle, 64 * 1024), 0, []
        while position < len(content):
            watch, _, _, length = _EVENT.unpack_from(content, position)
            position += _EVENT.size + length
            found.append(self._names[watch])
        return found


@contextmanager
def watching(files: Sequence[Path]) -> Iterator[Watch]:
    """Watch files that exist, whichever process opens them.

    Raises:
        MSTKDError: this is not Linux, or the kernel allows no further watch.
    """
    if sys.platform != "linux":
        raise MSTKDError(f"openings of files are seen by inotify, which {sys.platform} has not; use Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_CLOEXEC)
    try:
        names = {_checked(libc.inotify_add_watch(handle, os.fsencode(f), _IN_OPEN)): f for f in files}
        yield Watch(handle, names)
    finally:
        if handle >= 0:
            os.close(handle)


def _checked(number: int) -> int:
    if number < 0:
        raise MSTKDError(f"inotify: {os.strerror(ctypes.get_errno())}")
    return number


class Waiting:
    """Waits for one file of every group to be opened, group after group; others do not count."""

    def __init__(self, groups: Sequence[Sequence[Path]]) -> None:
        self._groups = [set(group) for group in groups]

    def done(self, opened: Sequence[Path]) -> bool:
        """Whether the last group has had its opening, with the files that were opened now, in order."""
        for file in opened:
            if self._groups and file in self._groups[0]:
                self._groups.pop(0)
        return not self._groups
