"""Writing a folder so that no reader ever sees half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that takes ``target``'s place on success and is gone on failure.

    The sibling lies at the same depth, so relative links written in it hold after the renaming.
    """
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            old = target.with_name(f".{os.getpid()}.old.{target.name}")
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
