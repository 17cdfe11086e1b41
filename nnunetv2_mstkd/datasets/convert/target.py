"""What a conversion may replace: only what an earlier one has written, and never what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import DESKTOP_FILES, LOCK_FILE, explained_disk_errors, read_json, temporary_beside

CONVERTED_PARTS = ("imagesTr", "labelsTr")
_WRITTEN = {*CONVERTED_PARTS, "dataset.json"}
_PASSING, _OURS = (*DESKTOP_FILES, LOCK_FILE), ".mstkd-"
_SECONDS = 2.0  # dataset.json is written last; some disks keep times to two seconds


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
    for path in sorted(_files_of(real)):
        name = path.relative_to(real)
        if path.name not in _PASSING and not path.name.startswith(_OURS) and not _is_written(name, content):
            raise MSTKDError(f"{target} also holds {name}, which would be lost; move that away first")
        if path.lstat().st_mtime > described.stat().st_mtime + _SECONDS:
            raise MSTKDError(
                f"{target / name} was changed after the conversion, which would be lost; move it away first"
            )


def _files_of(folder: Path) -> Iterator[Path]:
    """What lies in a data set, and in those of its folders that a conversion fills."""
    for path in folder.iterdir():
        yield from path.iterdir() if path.name in CONVERTED_PARTS and path.is_dir() else (path,)


def _is_written(name: Path, content: Mapping[str, Any]) -> bool:
    """Whether a conversion with this dataset.json has written a file of this name."""
    if len(name.parts) == 1:
        return name.name in _WRITTEN
    ending, cases = str(content.get("file_ending")), content["mstkd"].get("patients", {})
    stem = name.name.removesuffix(ending)
    if name.parts[0] == "imagesTr":
        stem, _, channel = stem.rpartition("_")
        if channel not in {f"{int(number):04d}" for number in content.get("channel_names", {})}:
            return False
    return name.name.endswith(ending) and stem in cases


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
