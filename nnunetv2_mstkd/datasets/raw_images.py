"""The images of an nnU-Net raw data set: which files each case has, and which of them show anything."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_mstkd.datasets.volumes import is_constant
from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def raw_images(folder: Path, dataset_json: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Case → its image files in channel order, as nnU-Net finds them.

    Args:
        folder: ``nnUNet_raw/DatasetXXX_Name``.
        dataset_json: may list the files of each case under ``dataset``; else ``imagesTr`` is looked through.
    """
    if "dataset" in dataset_json:
        listed = {case: entry["images"] for case, entry in sorted(dataset_json["dataset"].items())}
        return {
            case: tuple(folder / os.path.expandvars(image) for image in images)
            for case, images in listed.items()
        }
    pattern = re.compile(r"(.+)_\d{4}" + re.escape(dataset_json["file_ending"]))
    cases: dict[str, list[Path]] = {}
    for name in sorted(os.listdir(folder / "imagesTr")):
        match = pattern.fullmatch(name)
        if match:
            cases.setdefault(match[1], []).append(folder / "imagesTr" / name)
    return {case: tuple(files) for case, files in sorted(cases.items())}


def digest(files: Iterable[Path]) -> str | None:
    """A short text that changes when a file's name, size or time does (links are followed).

    None if one of the files is not there.
    """
    try:
        known = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    except OSError:
        return None
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def reader_class(dataset_json: Mapping[str, Any], example: Path) -> type[BaseReaderWriter]:
    """The reader that nnU-Net chooses for the data set.

    Raises:
        MSTKDError: it has none that can read ``example``.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    try:
        return determine_reader_writer_from_dataset_json(dict(dataset_json), str(example), verbose=False)
    except RuntimeError as error:
        raise MSTKDError(f"nnU-Net has no reader for {example}: {error}") from None


@dataclass(frozen=True)
class ReadJob:
    """One case to look at: its files in channel order, the modalities they should hold, nnU-Net's reader."""

    case: str
    files: tuple[Path, ...]
    modalities: tuple[str, ...]
    reader: type[BaseReaderWriter]


def absent_modalities(job: ReadJob) -> tuple[str, ...]:
    """Modalities of a case whose whole volume is constant, in channel order.

    The files are read together, as nnU-Net's preprocessing does: one file may hold several channels.

    Raises:
        MSTKDError: they cannot be read, or do not hold one channel per modality.
    """
    try:
        data, _ = job.reader().read_images([str(file) for file in job.files])
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MSTKDError(f"case {job.case}: its images cannot be read: {reason[-1]}") from None
    if len(data) != len(job.modalities):
        raise MSTKDError(
            f"case {job.case} has {len(data)} channels ({', '.join(file.name for file in job.files)}), but"
            f" dataset.json names {len(job.modalities)} ({', '.join(job.modalities)}); put an all-zero image"
            " in the place of an absent one, and preprocess again"
        )
    return tuple(name for name, volume in zip(job.modalities, data, strict=True) if is_constant(volume))
