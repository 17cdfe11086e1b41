"""Writing a folder so that no reader ever sees half of one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_mstkd.files import explained_disk_errors, temporary_beside


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that takes ``target``'s place on success and is gone on failure.

    The sibling lies at the same depth, so relative links written in it hold after the renaming. Of a link
    (a data set on another disk) the folder that it leads to is replaced.
    """
    target = target.resolve() if target.is_symlink() else target
    temporary, old = temporary_beside(target), target.with_name(f".{target.name}.replaced")
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    try:
        with explained_disk_errors(target):
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():
                target.rename(old)
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
