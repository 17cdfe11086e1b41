"""Images and segmentations of one case, read for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.evaluation.cases import source_label_map
from nnunetv2_mstkd.evaluation.regions import region_mask
from nnunetv2_mstkd.evaluation.results import Evaluation
from nnunetv2_mstkd.files import read_json


class UnreadableError(Exception):
    """A file cannot be shown; the figure does without it."""


@dataclass(frozen=True)
class Volume:
    """An image or a segmentation, seen as radiologists do: z upwards, y to the back, x to the left.

    Attributes:
        array: (Z, Y, X).
        spacing: mm of Z, Y, X.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]


def read_volume(path: Path | str) -> Volume:
    """Read a file; a 2D one gets one slice.

    Raises:
        UnreadableError: it cannot be read, or has several values per voxel.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UnreadableError(f"{path}: {error}") from None
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() not in (2, 3):
        raise UnreadableError(f"{path} is no image in 2D or 3D with one value per voxel")
    if image.GetDimension() == 2:
        return Volume(sitk.GetArrayFromImage(image)[None], (1.0, *image.GetSpacing()[::-1]))
    image = sitk.DICOMOrient(image, "LPS")
    return Volume(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1])


def read_reference(evaluation: Evaluation, case: str) -> Volume:
    """The reference segmentation of a case, in the label values of the evaluation's regions.

    The record does not say whether a reference has the values of the source (BraTS 2020 has 4 where the
    data set has 3). Both readings are tried: the one whose regions have the sizes that were scored is right.

    Raises:
        UnreadableError: it cannot be read, or neither reading fits.
    """
    volume = read_volume(evaluation.record.cases[case].reference)
    scored = _scored_sizes(evaluation, case)
    for mapping in (None, _source_map(evaluation)):
        array = volume.array if mapping is None else _mapped(volume.array, mapping)
        sizes = {name: int(region_mask(array, v).sum()) for name, v in evaluation.record.regions.items()}
        if all(sizes[name] == size for name, size in scored.items()):
            return Volume(array, volume.spacing)
    raise UnreadableError(f"the reference of case {case} is not the one that was scored")


def _scored_sizes(evaluation: Evaluation, case: str) -> dict[str, int]:
    """Region → voxels of the reference when it was scored."""
    table = evaluation.metrics
    rows = table[table["case"] == case].groupby("region")[["tp", "fn"]].first().dropna()
    return {str(region): int(tp + fn) for region, tp, fn in rows.itertuples()}


def _source_map(evaluation: Evaluation) -> Mapping[int, int] | None:
    folder = evaluation.record.model.get("folder")
    path = Path(folder) / "dataset.json" if folder else None
    return source_label_map(read_json(path)) if path and path.is_file() else None


def _mapped(array: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    result = array.copy()
    for source, target in mapping.items():
        result[array == source] = target
    return result
