"""Reading a case for prediction: checks, nnU-Net's own reader, zeros for what is absent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.nifti import count_non_finite, is_nifti_name
from nnunetv2_mstkd.datasets.volumes import ONE_GRID, check_header, is_constant
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.images_in_memory import Source, geometry_in_memory, read_image
from nnunetv2_mstkd.inference.selection import Examination, ModalityUse, chosen_images, modality_use

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


@dataclass(frozen=True)
class LooseCase:
    """A case whose images are files or SimpleITK images in memory, by modality."""

    name: str
    images: Mapping[str, Source]


@dataclass
class CaseVolumes:
    """A case in memory, as nnU-Net's preprocessing takes it.

    Attributes:
        name: the case's name.
        data: (C, Z, Y, X) float32, Z = 1 for 2D images; channels as in dataset.json, zero where a modality is
            not used.
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
    case: Examination[Source],
    modalities: Sequence[str],
    wanted: Collection[str],
    reader: BaseReaderWriter,
    previous_stage: Source | None = None,
    *,
    dimensions: Sequence[int] = (3,),
) -> CaseVolumes:
    """Read the images of a case that are asked for; no other file of it is touched.

    Args:
        case: a :class:`LooseCase`, or a :class:`~nnunetv2_mstkd.datasets.discovery.Case`.
        modalities: those of the model, in channel order.
        wanted: those to use.
        reader: the plans' reader; each file is read alone, because nnU-Net's readers refuse grids that
            differ in the last digits and take the channel number from the position in a list.
        previous_stage: the case's segmentation by the previous stage of a cascade.
        dimensions: numbers of axes that an image may have.

    Raises:
        MSTKDError: an image cannot be used, the grids differ, or no modality is left.
    """
    chosen = chosen_images(case, wanted)
    sources = dict(chosen)
    if previous_stage is not None:
        if isinstance(previous_stage, Path) and not previous_stage.is_file():
            raise MSTKDError(f"no segmentation of the previous stage: {previous_stage} does not exist")
        sources["previous stage"] = previous_stage
    _check_grids(sources, dimensions)
    volumes: dict[str, np.ndarray] = {}
    properties: dict[str, Any] = {}
    for name, source in chosen.items():
        volumes[name], of_source = _read(name, source, reader)
        properties = properties or of_source
    constant = {name for name, volume in volumes.items() if is_constant(volume)}
    use = modality_use(case, modalities, wanted, constant)
    data = np.zeros((len(modalities), *next(iter(volumes.values())).shape), dtype=np.float32)
    for name in use.used:
        data[modalities.index(name)] = volumes[name]
    segmentation = (
        None if previous_stage is None else _read("previous stage", previous_stage, reader)[0][None]
    )
    return CaseVolumes(case.name, data, properties, use, segmentation)


def _check_grids(sources: Mapping[str, Source], dimensions: Sequence[int]) -> None:
    """Refuse images that are no volumes, and grids that differ (the message names both)."""
    (first, reference), *others = (
        (
            _label(n, s),
            check_header(s, dimensions=dimensions)
            if isinstance(s, Path)
            else geometry_in_memory(_label(n, s), s, dimensions),
        )
        for n, s in sources.items()
    )
    for label, geometry in others:
        difference = reference.difference(geometry)
        if difference:
            raise MSTKDError(f"{first} and {label} differ in {difference}; {ONE_GRID}")


def _label(name: str, source: Source) -> str:
    return str(source) if isinstance(source, Path) else f"the image given for {name}"


def _read(name: str, source: Source, reader: BaseReaderWriter) -> tuple[np.ndarray, dict[str, Any]]:
    """One volume (Z, Y, X) and its geometry, every voxel checked."""
    if isinstance(source, Path):
        broken = count_non_finite(source) if is_nifti_name(source.name) else 0
        array, properties = _read_file(source, reader)
    else:
        broken = int((~np.isfinite(sitk.GetArrayViewFromImage(source))).sum())
        array, properties = read_image(source, reader)
    label = _label(name, source)
    if array.shape[0] != 1:
        raise MSTKDError(f"{label} holds {array.shape[0]} channels; give one file per modality")
    # Counted twice: readers may turn NaN into 0, and float64 may become Inf as float32.
    broken = broken or int(array.size - np.isfinite(array).sum())
    if broken:
        raise MSTKDError(f"{label} has {broken} NaN or Inf voxels; repair it or leave it out")
    return array[0], properties


def _read_file(path: Path, reader: BaseReaderWriter) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        return reader.read_images((str(path),))
    except Exception as error:  # whatever the reader's library raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MSTKDError(f"cannot read {path}: {reason[-1].removeprefix('sitk::ERROR: ')}") from error
