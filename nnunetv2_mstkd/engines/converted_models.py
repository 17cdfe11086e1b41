"""Converted networks on disk, so that a model is converted once.

They lie in the user's cache, never in the model's folder: that may be shared, read-only or zipped.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from platformdirs import user_cache_path
from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import explained_disk_errors, temporary_beside, writable_folder

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "nnUNet_mstkd_cache"
MOST_BYTES = 8 * 2**30
_USED = "used"  # its time is the last use's


def cache_folder() -> Path:
    """``nnUNet_mstkd_cache``, or ``nnunetv2_mstkd`` in the user's cache folder (``~/.cache`` on Linux)."""
    return Path(os.environ.get(FOLDER_VARIABLE) or user_cache_path("nnunetv2_mstkd", appauthor=False))


def digest_of(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    described: str,
    shape: Sequence[int],
    packages: Sequence[str],
) -> str:
    """Digest everything that a converted network depends on; SHA-256.

    Args:
        network: its layers as PyTorch prints them, and the source files of their classes, count; so do
            those of this folder.
        weights: what it is to be loaded with.
        described: whatever else decides what it computes: plans and data set.
        shape: of its input.
        packages: distributions whose versions count.
    """
    digest = hashlib.sha256()
    for name, weight in weights.items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().data)
    versions = {name: metadata.version(name) for name in packages}
    digest.update(json.dumps([str(network), described, list(shape), versions], sort_keys=True).encode())
    of_layers = {Path(inspect.getfile(type(module))) for module in network.modules()}
    for path in sorted(of_layers | {*Path(__file__).parent.glob("*.py")}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class ConvertedModels:
    """Folders of converted networks, the least used of which make room for new ones.

    Args:
        folder: theirs; made where it is missing.
        most_bytes: of all of them; one alone may be larger.

    Raises:
        MSTKDError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_bytes = writable_folder(folder), most_bytes

    def find(self, key: str) -> Path | None:
        """Return the folder of a converted network, and note its use; ``None`` if there is none."""
        found = self.folder / key
        if not found.is_dir():
            return None
        try:
            (found / _USED).touch()
        except OSError:  # another run has just removed it
            return None
        return found

    def add(self, key: str, write: Callable[[Path], None]) -> Path:
        """Keep a converted network: ``write`` puts its files into a new folder, which then gets its name.

        Raises:
            MSTKDError: the disk is full or read-only; nothing half-written is left.
        """
        target = self.folder / key
        temporary = temporary_beside(target)
        try:
            with explained_disk_errors(target):
                temporary.mkdir()
                write(temporary)
                (temporary / _USED).touch()
                try:
                    temporary.rename(target)
                except OSError:
                    if not target.is_dir():  # else another run was faster, with the same
                        raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._make_room(target)
        return target

    def discard(self, key: str) -> None:
        """Remove a converted network that cannot be read."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def _make_room(self, keep: Path) -> None:
        sizes = {path: _size(path) for path in self.folder.iterdir() if (path / _USED).is_file()}
        total = sum(sizes.values())
        for path in sorted(sizes.keys() - {keep}, key=_last_use):
            if total <= self.most_bytes:
                return
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def opened_cache() -> ConvertedModels | None:
    """Return the user's cache; ``None``, with a warning, where it cannot be written."""
    try:
        return ConvertedModels(cache_folder())
    except MSTKDError as error:
        logger.warning("converted networks are not kept: %s (set %s)", error, FOLDER_VARIABLE)
        return None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _last_use(folder: Path) -> float:
    try:
        return (folder / _USED).stat().st_mtime
    except OSError:
        return 0.0
