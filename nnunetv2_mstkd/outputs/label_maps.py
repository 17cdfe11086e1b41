"""Segmentations read from disk to be measured: labels and their place in the scanner, whatever the format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.labels import integral_values
from nnunetv2_mstkd.datasets.nifti import check_voxels
from nnunetv2_mstkd.datasets.volumes import read_any, without_grid
from nnunetv2_mstkd.files import read_json


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation.

    Attributes:
        array: (Z, Y, X), or (Y, X) of a 2D image; whole numbers.
        image: the same with its grid, as SimpleITK has it.
        grid: it knows where it lies; a picture (png, bmp, tif) does not.
    """

    array: np.ndarray
    image: sitk.Image
    grid: bool


def read_label_map(path: Path, name: str | None = None) -> LabelMap:
    """Read a segmentation.

    Pictures (png, bmp, tif) have no grid: theirs is 1 mm, or what nnU-Net has written beside a 3D tif.

    Args:
        path: the file.
        name: what it is called in the end, where ``path`` is temporary.

    Raises:
        MSTKDError: it cannot be read, or its values are no labels.
    """
    check_voxels(path)
    image = read_any(path)
    array = sitk.GetArrayFromImage(image)
    if not np.issubdtype(array.dtype, np.integer):
        integral_values(array)
        array = np.round(array).astype(np.int32)
        image = _like(array, image)
    if without_grid(path):
        image = _like(array, None)
        spacing = path.with_name(name or path.name).with_suffix(".json")
        if image.GetDimension() == 3 and spacing.is_file():
            image.SetSpacing([float(mm) for mm in read_json(spacing)["spacing"]][::-1])
    return LabelMap(array, image, not without_grid(path))


def _like(array: np.ndarray, image: sitk.Image | None) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    if image is not None:
        result.CopyInformation(image)
    return result
