"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in ``target``'s folder; on success it takes ``target``'s place, else it is gone.

    The temporary name is hidden, carries the process id (two processes may write into one folder) and keeps
    every suffix of ``target``, because image writers choose the format by suffix.
    """
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MSTKDError(f"file not found: {path}") from None
    except (OSError, ValueError) as error:
        raise MSTKDError(f"cannot read {path} as JSON: {error}") from None


def writable_folder(path: Path) -> Path:
    """Create ``path`` if needed and make sure files can be written there.

    Raises:
        MSTKDError: the folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}.write-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise MSTKDError(f"cannot write into {path}: {reason}; choose another folder") from None
    return path


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
