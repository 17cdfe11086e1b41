"""What a conversion may replace: only what an earlier one has written, and never what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import explained_disk_errors, read_json, temporary_beside

CONVERTED_PARTS = ("imagesTr", "labelsTr")
_WRITTEN = {*CONVERTED_PARTS, "dataset.json"}


def check_replaceable(target: Path, source: Path, files: Iterable[Path]) -> None:
    """Refuse to replace a data set where somebody's files would be lost.

    Args:
        target: folder of the data set; nothing is wrong if it does not exist.
        source: folder that is converted.
        files: that are read; links count as what they lead to.

    Raises:
        MSTKDError: the target holds some of the source, or something that ``convert`` has not written.
    """
    if not target.exists():
        return
    real = target.resolve()
    for path in (source, *files):
        if path.resolve().is_relative_to(real):
            raise MSTKDError(
                f"{path} is in {target}, which would be replaced; move it elsewhere, or choose another -d"
            )
    described = real / "dataset.json"
    content = read_json(described) if described.is_file() else None
    if not isinstance(content, dict) or "mstkd" not in content:
        raise MSTKDError(
            f"{target} was not written by nnUNetv2_mstkd convert; move it away, or choose another -d"
        )
    foreign = sorted(p.name for p in real.iterdir() if p.name not in _WRITTEN and p.name[0] != ".")
    if foreign:
        raise MSTKDError(f"{target} also holds {foreign[0]}, which would be lost; move that away first")


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
