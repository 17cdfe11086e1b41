"""Reading NIfTI volumes with the checks that the usual readers leave out.

SimpleITK returns a truncated file as if it were whole, and reads a 4D file as a 3D one with several values
per voxel. Both would end as a silently wrong segmentation, so the NIfTI header and the number of bytes
behind it are checked here first.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path

NIFTI_ENDINGS: tuple[str, ...] = (".nii.gz", ".nii")
# Absolute, in mm for spacing and origin: files of one case often differ in the last float32 digits.
TOLERANCE = 1e-3

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Geometry:
    """The voxel grid of a volume: size in voxels (x, y, z), spacing and origin in mm, direction cosines."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def difference(self, other: Geometry) -> str | None:
        """What differs, e.g. ``"size (8, 8, 8) and (8, 8, 9)"``, or None where both are one grid."""
        for name in ("size", "spacing", "origin", "direction"):
            mine, theirs = getattr(self, name), getattr(other, name)
            tolerance = 0 if name == "size" else TOLERANCE
            if len(mine) != len(theirs) or any(
                abs(a - b) > tolerance for a, b in zip(mine, theirs, strict=True)
            ):
                return f"{name} {_rounded(mine)} and {_rounded(theirs)}"
        return None


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.5g}" for value in values) + ")"


def is_nifti_name(name: str) -> bool:
    """Whether a file name ends like NIfTI."""
    return name.endswith(NIFTI_ENDINGS)


def check_header(path: Path, *, dimensions: int = 3) -> Geometry:
    """Geometry of a volume from its header alone.

    Args:
        dimensions: how many axes longer than one the file must have; 4 for the Decathlon's stacked sequences.

    Raises:
        MSTKDError: no file, not NIfTI (for NIfTI names), or not a 3D volume with one value per voxel.
    """
    if is_nifti_name(path.name):
        with _opened(path) as stream:
            _check_dimensions(path, _nifti_header(path, stream), dimensions)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() != dimensions:
        raise MSTKDError(f"{path} is not a {dimensions}D volume with one value per voxel")
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


def check_case(images: Mapping[str, Path]) -> Geometry:
    """The one grid that all files of a case share.

    Args:
        images: modality name → file, at least one.

    Raises:
        MSTKDError: a file fails ``check_header``, or two grids differ (the message names both files).
    """
    if not images:
        raise MSTKDError("the case has no images; give at least one modality")
    (first, reference), *others = ((path, check_header(path)) for path in images.values())
    for path, geometry in others:
        difference = reference.difference(geometry)
        if difference:
            raise MSTKDError(f"{first} and {path} differ in {difference}; resample them onto one grid")
    return reference


def read_checked(path: Path, *, dimensions: int = 3) -> sitk.Image:
    """Read a whole volume.

    Raises:
        MSTKDError: as ``check_header``; or the file is truncated or damaged, or has NaN or Inf voxels.
    """
    check_header(path, dimensions=dimensions)
    if is_nifti_name(path.name):
        _check_complete(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise MSTKDError(f"cannot read {path}: {_reason(error)}") from None
    array = sitk.GetArrayViewFromImage(image)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise MSTKDError(f"{path} has {count} NaN or Inf voxels; repair or leave out this file")
    return image


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


def _opened(path: Path) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")
    except OSError as error:
        raise MSTKDError(f"cannot read {path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class _NiftiHeader:
    shape: tuple[int, ...]
    total_bytes: int  # of header, extensions and voxels


def _nifti_header(path: Path, stream: IO[bytes]) -> _NiftiHeader:
    """The fields of a NIfTI-1 or NIfTI-2 header that say how long the file must be (nifti1.h, nifti2.h)."""
    try:
        raw = stream.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise MSTKDError(f"{path} is truncated or not NIfTI ({error}); fetch the file again") from None
    for order in "<>":
        if len(raw) >= 348 and struct.unpack_from(f"{order}i", raw)[0] == 348:
            dimensions = struct.unpack_from(f"{order}8h", raw, 40)
            (bits,) = struct.unpack_from(f"{order}h", raw, 72)
            (offset,) = struct.unpack_from(f"{order}f", raw, 108)
            break
        if len(raw) >= 540 and struct.unpack_from(f"{order}i", raw)[0] == 540:
            (bits,) = struct.unpack_from(f"{order}h", raw, 14)
            dimensions = struct.unpack_from(f"{order}8q", raw, 16)
            (offset,) = struct.unpack_from(f"{order}q", raw, 168)
            break
    else:
        raise MSTKDError(f"{path} is not a NIfTI file or is truncated; fetch the file again")
    shape = _trim(dimensions[1 : 1 + max(0, min(7, dimensions[0]))])
    return _NiftiHeader(shape, int(offset) + math.prod(shape) * bits // 8)


def _trim(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Drop trailing axes of length one beyond the third: ``(8, 8, 8, 1)`` is a 3D volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(n) for n in shape)


def _check_dimensions(path: Path, header: _NiftiHeader, dimensions: int) -> None:
    if len(header.shape) != dimensions or min(header.shape) < 1:
        text = "x".join(map(str, header.shape)) or "empty"
        remedy = "; give one 3D file per modality" if dimensions == 3 else ""
        raise MSTKDError(f"{path} is {len(header.shape)}D ({text}), not {dimensions}D{remedy}")


def _check_complete(path: Path) -> None:
    """Read to the end: gzip checks its own sum there, and the length must be what the header says."""
    with _opened(path) as stream:
        header = _nifti_header(path, stream)
        try:
            present = stream.tell()
            while chunk := stream.read(_CHUNK):
                present += len(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise MSTKDError(f"{path} is truncated or damaged ({error}); fetch the file again") from None
    if present < header.total_bytes:
        raise MSTKDError(
            f"{path} is truncated: {present} of {header.total_bytes} bytes; fetch the file again"
        )
