"""Reading a case for prediction: checks, nnU-Net's own reader, zeros for what is absent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_mstkd.datasets.discovery import Case
from nnunetv2_mstkd.datasets.nifti import count_non_finite, is_nifti_name
from nnunetv2_mstkd.datasets.volumes import check_case
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.selection import ModalityUse, chosen_images, modality_use

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


@dataclass
class CaseVolumes:
    """A case in memory, as nnU-Net's preprocessing takes it.

    Attributes:
        name: the case's name.
        data: (C, Z, Y, X) float32, channels as in dataset.json, zero where a modality is not used.
        properties: what nnU-Net's reader says of the geometry; preprocessing adds to it.
        use: which modalities are in ``data``.
        previous_stage: (1, Z, Y, X) segmentation by the previous stage of a cascade, or None.
    """

    name: str
    data: np.ndarray
    properties: dict[str, Any]
    use: ModalityUse
    previous_stage: np.ndarray | None = None


def read_case(
    case: Case,
    modalities: Sequence[str],
    wanted: Collection[str],
    reader: BaseReaderWriter,
    previous_stage: Path | None = None,
) -> CaseVolumes:
    """Read the files of a case that are asked for; no other file of it is touched.

    Args:
        modalities: those of the model, in channel order.
        wanted: those to use.
        reader: the plans' reader; each file is read alone, because nnU-Net's readers refuse grids that
            differ in the last digits and take the channel number from the position in a list.
        previous_stage: the case's segmentation by the previous stage of a cascade.

    Raises:
        MSTKDError: a file cannot be used, the grids differ, or no modality is left.
    """
    chosen = chosen_images(case, wanted)
    files = dict(chosen)
    if previous_stage is not None:
        if not previous_stage.is_file():
            raise MSTKDError(f"no segmentation of the previous stage: {previous_stage} does not exist")
        files["previous stage"] = previous_stage
    check_case(files)
    volumes: dict[str, np.ndarray] = {}
    properties: dict[str, Any] = {}
    for name, path in chosen.items():
        volumes[name], of_file = _read(path, reader)
        properties = properties or of_file
    constant = {name for name, volume in volumes.items() if volume.min() == volume.max()}
    use = modality_use(case, modalities, wanted, constant)
    data = np.zeros((len(modalities), *next(iter(volumes.values())).shape), dtype=np.float32)
    for name in use.used:
        data[modalities.index(name)] = volumes[name]
    segmentation = None if previous_stage is None else _read(previous_stage, reader)[0][None]
    return CaseVolumes(case.name, data, properties, use, segmentation)


def _read(path: Path, reader: BaseReaderWriter) -> tuple[np.ndarray, dict[str, Any]]:
    """One volume (Z, Y, X) and its geometry, every byte checked."""
    broken = count_non_finite(path) if is_nifti_name(path.name) else 0  # readers may turn NaN into 0
    array, properties = reader.read_images((str(path),))
    if array.shape[0] != 1:
        raise MSTKDError(f"{path} holds {array.shape[0]} channels; give one file per modality")
    broken = broken or int(array.size - np.isfinite(array).sum())
    if broken:
        raise MSTKDError(f"{path} has {broken} NaN or Inf voxels; repair or leave out this file")
    return array[0], properties
