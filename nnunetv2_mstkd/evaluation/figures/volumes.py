"""Images and segmentations of one case, read for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.regions import region_mask
from nnunetv2_mstkd.datasets.volumes import read_any, without_grid
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import Evaluation
from nnunetv2_mstkd.evaluation.scoring.label_files import mapped


class UnreadableError(Exception):
    """A file cannot be shown; the figure does without it."""


@dataclass(frozen=True)
class OrientedVolume:
    """An image or a segmentation, seen as radiologists do: z upwards, y to the back, x to the left.

    Attributes:
        array: (Z, Y, X).
        spacing: mm of Z, Y, X.
        sides_known: the patient's right is at the left; of a 2D image and of a picture nobody knows.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    sides_known: bool = True


def oriented(image: sitk.Image, *, grid: bool = True) -> OrientedVolume:
    """Turn an image as radiologists see it; a 2D one gets one slice.

    Args:
        grid: the image knows where it lies; a picture does not.
    """
    if image.GetDimension() == 2:
        return OrientedVolume(sitk.GetArrayFromImage(image)[None], (1.0, *image.GetSpacing()[::-1]), False)
    image = sitk.DICOMOrient(image, "LPS")
    return OrientedVolume(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], grid)


def read_volume(path: Path | str) -> OrientedVolume:
    """Read a file; a 2D one gets one slice.

    Raises:
        UnreadableError: it cannot be read, or has several values per voxel.
    """
    try:
        return oriented(read_any(Path(path)), grid=not without_grid(Path(path)))
    except MSTKDError as error:
        raise UnreadableError(str(error)) from None


def read_reference(evaluation: Evaluation, case: str) -> OrientedVolume:
    """Read the reference segmentation of a case, in the label values of the evaluation's regions.

    Raises:
        UnreadableError: it cannot be read, or its regions have not the sizes that were scored.
    """
    known = evaluation.record.cases[case]
    volume = _mapped(read_volume(known.reference), known.label_map)
    regions, scored = evaluation.record.regions, _scored_sizes(evaluation, case)
    if any(int(region_mask(volume.array, regions[name]).sum()) != size for name, size in scored.items()):
        raise UnreadableError(f"the reference of case {case} is not the one that was scored")
    return volume


def read_prediction(evaluation: Evaluation, case: str, subset: str) -> OrientedVolume:
    """Read a segmentation of a case, in the label values of the evaluation's regions.

    Raises:
        UnreadableError: it cannot be read.
    """
    volume = read_volume(evaluation.prediction(case, subset))
    return _mapped(volume, evaluation.record.prediction_label_map)


def _scored_sizes(evaluation: Evaluation, case: str) -> dict[str, int]:
    """Map region to the voxels that the reference had when it was scored."""
    table = evaluation.metrics
    rows = table[table["case"] == case].groupby("region")[["tp", "fn"]].first().dropna()
    return {str(region): int(tp + fn) for region, tp, fn in rows.itertuples()}


def _mapped(volume: OrientedVolume, label_map: Mapping[int, int] | None) -> OrientedVolume:
    return replace(volume, array=mapped(volume.array, label_map))
