"""nnU-Net's three folders, empty, for the time of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Folders:
    """Where they lie, and the temporary folder that holds them."""

    root: Path
    raw: Path
    preprocessed: Path
    results: Path


@contextmanager
def nnunet_folders(**variables: str) -> Iterator[Folders]:
    """Make the folders and put them into the environment, with further ``variables``; undo it at the end."""
    with TemporaryDirectory(prefix="nnunetv2_mstkd_") as root:
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        paths = [Path(root, name) for name in names]
        for path in paths:
            path.mkdir()
        wanted = {**dict(zip(names, map(str, paths), strict=True)), **variables}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield Folders(Path(root), *paths)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name)
                else:
                    os.environ[name] = value
