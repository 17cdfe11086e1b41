"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import platform
import re
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError

logger = logging.getLogger(__name__)

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:
    # Windows cannot lock like that: runs that share one need folders of their own there.
    fcntl = None

# Nobody writes on one file for a day: older ones are leftovers even where we cannot ask for their process.
_ABANDONED_SECONDS = 24 * 3600
_TEMPORARY = re.compile(r"\.mstkd-([0-9a-f]{8})-(\d+)-\d+\..+")
_NO_WAY = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# One lock per folder for the threads of this process.
_THREADS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# What file managers leave anywhere.
DESKTOP_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
_REMOVED = (errno.ENOENT, errno.ESTALE)
LOCK_FILE = ".mstkd-lock"
_END = 1 << 16  # bytes
_count = itertools.count()


@lru_cache(maxsize=1)
def _machine() -> str:
    """Short name of the space in which process ids are unique: folders are shared by hosts and containers."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def temporary_beside(target: Path) -> Path:
    """A name for writing ``target``, in its folder, that no other thread, process or machine uses.

    It is hidden, says who writes, and keeps every suffix of ``target``, because image writers choose the
    format by suffix.
    """
    return target.with_name(f".mstkd-{_machine()}-{os.getpid()}-{next(_count)}.{target.name}")


@contextmanager
def atomic_path(target: Path, *, replacing: AbstractContextManager[Any] | None = None) -> Iterator[Path]:
    """Yield a temporary path in ``target``'s folder; on success it takes ``target``'s place, else it is gone.

    The bytes are on the disk before the name is: neither a killed process nor a power cut leaves half a file.

    Args:
        target: the file to write.
        replacing: entered only while the name changes hands, for what must be true of that moment.

    Raises:
        MSTKDError: the disk is full, over quota, read-only or broken, or the folder is not there or may not
            be written; ``target`` is as it was.
    """
    temporary = temporary_beside(target)
    try:
        with explained_disk_errors(target):
            yield temporary
            _flush(temporary)
            with replacing or nullcontext():
                os.replace(temporary, target)
    finally:
        with suppress(NotADirectoryError):  # the folder never was one
            temporary.unlink(missing_ok=True)


@contextmanager
def explained_disk_errors(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a user error where the disk or the folder is to blame.

    The disk is full, over quota, read-only or broken; the folder is not there or may not be written.

    Raises:
        MSTKDError: naming ``target``.
    """
    try:
        yield
    except OSError as error:
        of_the_folder = error.errno in _NO_WAY and Path(str(error.filename)).parent == target.parent
        if error.errno not in _NO_ROOM and not of_the_folder:
            raise
        raise MSTKDError(f"cannot write {target}: {error.strerror}; what was there is untouched") from error


def _flush(path: Path) -> None:
    """Wait until a file is on the disk; network disks and quotas report a short write only here."""
    if path.is_symlink():
        return
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sweep_leftovers(folder: Path) -> list[Path]:
    """Remove temporary files and folders that killed processes have left in ``folder``.

    One is left alone while its process runs. A process of another machine cannot be asked for; what it has
    left goes after a day without a change.

    Returns:
        What was removed.
    """
    removed = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _is_leftover(path):
            continue
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:  # another process was faster, or it is not ours to remove
            continue
        removed.append(path)
    return removed


def _is_leftover(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    machine, process = match.group(1), int(match.group(2))
    if machine == _machine() and not _is_running(process):
        return True
    try:
        changed = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except OSError:
        return False
    return time.time() - changed > _ABANDONED_SECONDS


def _is_running(process: int) -> bool:
    if os.name != "posix":  # there os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, PermissionError):  # the latter: it runs, as another user
        return True
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, by a hidden file that is there as long as somebody holds it.

    A file, because network file systems hold locks of files for all machines, those of folders for one.
    Whatever ends the process releases it. Where the system cannot lock, the threads of this process still
    take turns, and a warning says what to do about others.
    """
    with _THREADS[str(folder.resolve())]:
        if fcntl is None:
            _warn_of_no_lock(folder)
            yield
            return
        path = folder / LOCK_FILE
        handle = _lock(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # still held: who waits for it finds out and makes another
            os.close(handle)


@cache  # once per folder
def _warn_of_no_lock(folder: Path) -> None:
    logger.warning("%s cannot be locked: give runs at once folders of their own", folder)


def _lock(path: Path) -> int:
    assert fcntl is not None, "asked for where there is none"
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _warn_of_no_lock(path.parent)
                return handle
            if error.errno not in _REMOVED:
                os.close(handle)
                raise
        os.close(handle)  # the one who held it has removed it


def write_json(content: Any, target: Path) -> None:
    """Write JSON in one step, keys in the order given (region order matters to nnU-Net)."""
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        MSTKDError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # Windows programs begin with a mark
    except FileNotFoundError:
        raise MSTKDError(f"file not found: {path}") from None
    except (OSError, ValueError) as error:
        raise MSTKDError(f"cannot read {path} as JSON: {error}") from None


def writable_folder(path: Path) -> Path:
    """Create ``path`` if needed, make sure files can be written there, and sweep what killed runs have left.

    Raises:
        MSTKDError: the folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(path)
        probe = temporary_beside(path / "write-probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise MSTKDError(f"cannot write into {path}: {reason}; choose another folder") from None
    return path


def check_folders(source: Path, output: Path) -> None:
    """Refuse to write among the input.

    Raises:
        MSTKDError: the output folder is the input folder or lies in it.
    """
    inside, around = output.resolve(), source.resolve()
    if inside == around or around in inside.parents:
        raise MSTKDError(f"the output {output} lies in the input {source}; choose a folder outside")


def link_or_copy(source: Path, target: Path, *, copy: bool) -> None:
    """Copy, or link relatively, so that source and target can be moved together.

    The way is counted between real folders: ``..`` behind a linked folder would lead elsewhere.

    Raises:
        MSTKDError: the file system does not link.
    """
    if copy:
        shutil.copyfile(source, target)
        return
    real = Path(os.path.realpath(source.parent)) / source.name
    try:
        target.symlink_to(os.path.relpath(real, os.path.realpath(target.parent)))
    except (OSError, ValueError) as error:
        raise MSTKDError(f"cannot link {target} to {source} ({error}); use --copy") from None


def ends_digest(path: Path) -> str:
    """Digest a large file's size and both its ends; SHA-256.

    Another file in its place is noticed without reading gigabytes: an image by its header and by what a
    compressed one ends with, a checkpoint by the end of torch's zip file, which lists the checksum of every
    tensor. A copy of the file is the same.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        digest.update(stream.read(_END))
        stream.seek(max(size - _END, 0))
        digest.update(stream.read(_END))
    return digest.hexdigest()
