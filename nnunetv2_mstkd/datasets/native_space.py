"""Segmentations of preprocessed scans, brought back onto the grids of the raw ones.

The matrices are those that ``preprocess --transforms`` kept; brainles-preprocessing (0.6) applies them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.brain_preprocessing import centre_of, one_line_of_the_library
from nnunetv2_mstkd.datasets.cases import Case
from nnunetv2_mstkd.datasets.nifti import is_nifti_name
from nnunetv2_mstkd.datasets.volumes import geometry_of, image_on_grid, read_checked, write_image
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path

_BACKGROUND = 0


def to_native_space(
    segmentation: Path, case: Case, matrices: Path, target: Path, *, sequence: str | None = None
) -> str:
    """Write a segmentation on the grid of one of its case's raw scans.

    A voxel takes the label that has most weight around it (ANTs' ``genericLabel``); what the preprocessed
    grid did not reach is background. Names and colours of labels in the file are kept.

    Args:
        segmentation: of the preprocessed case.
        case: with its raw images.
        matrices: folder of the case's matrices, a folder per sequence.
        target: the file to write.
        sequence: whose grid; None takes the one that ``preprocess`` registers to by default.

    Returns:
        The sequence whose grid it is.

    Raises:
        MSTKDError: the case lacks the sequence or its matrices, an image cannot be read, or the library
            fails.
    """
    name = centre_of(case, sequence)
    raw, labels = read_checked(case.images[name]), read_checked(segmentation)
    steps = _matrices(matrices, name)
    if steps:
        array = _transformed(raw, segmentation, labels, matrices, name)
    else:  # the centre of preprocess --space native keeps its grid
        difference = geometry_of(raw).difference(geometry_of(labels))
        if difference:
            raise MSTKDError(
                f"{case.images[name]} and {segmentation} differ in {difference}, and no matrix leads from one"
                f" to the other ({matrices / name} is empty)"
            )
        array = sitk.GetArrayFromImage(labels)
    image = image_on_grid(array, geometry_of(raw))
    if not is_nifti_name(target.name):
        write_image(image, target)
        return name
    with atomic_path(target) as temporary, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.nii"
        write_image(image, plain)
        _save_with_names(plain, segmentation, temporary)
    return name


def _matrices(folder: Path, sequence: str) -> list[Path]:
    place = folder / sequence
    if not place.is_dir():
        found = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir()))
        raise MSTKDError(
            f"no matrices of {sequence} in {folder}"
            + (f"; it has those of {found}" if found else "; preprocess --transforms keeps them")
        )
    return sorted(place.glob("*.mat"))


def _transformed(
    raw: sitk.Image, segmentation: Path, labels: sitk.Image, matrices: Path, sequence: str
) -> np.ndarray:
    """The labels (Z, Y, X) on the raw image's grid, in their own type."""
    from brainles_preprocessing.registration import (  # type: ignore[import-not-found,unused-ignore]
        ANTsRegistrator,
    )
    from brainles_preprocessing.transform import (  # type: ignore[import-not-found,unused-ignore]
        Transform,
    )

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # A grid is enough: of the fixed image the library reads no more. Its own reader knows fewer formats.
        grid, moved = folder / "grid.nii.gz", folder / "moved.nii.gz"
        write_image(image_on_grid(np.zeros(raw.GetSize()[::-1], np.uint8), geometry_of(raw)), grid)
        moving = folder / "moving.nii.gz"
        write_image(labels, moving)
        with one_line_of_the_library():
            registrator = ANTsRegistrator(transformation_params={"defaultvalue": _BACKGROUND})
            Transform(matrices, registrator).apply(
                target_modality_name=sequence,
                target_modality_img=grid,
                moving_image=moving,
                output_img_path=moved,
                log_file_path=folder / "steps.log",
                interpolator="genericLabel",
                inverse=True,
            )
        array = sitk.GetArrayFromImage(read_checked(moved))
    before = sitk.GetArrayViewFromImage(labels)
    strange = np.setdiff1d(array, [*np.unique(before), _BACKGROUND])
    if strange.size:
        raise MSTKDError(f"{segmentation}: the library made labels that it has not, such as {strange[0]:g}")
    return array.astype(before.dtype)


def _save_with_names(image: Path, source: Path, target: Path) -> None:
    """The image with the header extensions of the segmentation, in which the names of labels stand."""
    result: Any = nib.load(image)
    if is_nifti_name(source.name):
        named: Any = nib.load(source)
        result.header.extensions.extend(named.header.extensions)
    nib.save(result, target)
