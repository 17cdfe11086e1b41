"""Images in memory, as nnU-Net's readers and writers would have them from a file.

nnU-Net reads files only. What its usual reader (``SimpleITKIO``) makes of one is repeated here for an image
in memory; for its other readers, which turn axes or keep another library's header, the image goes through a
temporary file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunetv2_mstkd.datasets.volumes import Geometry, image_on_grid
from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Volume:
    """A voxel array with its grid, in SimpleITK's conventions.

    Attributes:
        array: (Z, Y, X), as ``sitk.GetArrayFromImage`` returns it; any real type.
        spacing: (x, y, z) in mm, as ``image.GetSpacing()`` returns it. The reverse of the array's axes.
        origin: (x, y, z) in mm.
        direction: nine direction cosines, row by row.
    """

    array: np.ndarray
    spacing: Sequence[float]
    origin: Sequence[float] = (0.0, 0.0, 0.0)
    direction: Sequence[float] = _IDENTITY


ImageLike = str | os.PathLike[str] | sitk.Image | Volume | tuple[np.ndarray, Sequence[float]]
Source = Path | sitk.Image


def as_source(name: str, image: ImageLike) -> Source:
    """A path or a SimpleITK image, whichever way an image was given.

    Args:
        name: what it was given for, named in errors.

    Raises:
        MSTKDError: it is nothing of the kind, or array and spacing are no 3D volume.
    """
    if isinstance(image, (str, os.PathLike)):
        return Path(image)
    if isinstance(image, sitk.Image):
        return image
    if isinstance(image, tuple) and len(image) == 2:
        image = Volume(*image)
    if not isinstance(image, Volume) or not isinstance(image.array, np.ndarray):
        raise MSTKDError(
            f"{name} is a {type(image).__name__}; give a path, a SimpleITK image, a Volume or a pair of"
            " array (Z, Y, X) and spacing (x, y, z)"
        )
    return _image_of_volume(name, image)


def _image_of_volume(name: str, volume: Volume) -> sitk.Image:
    array = volume.array
    if array.ndim != 3 or array.size == 0:
        raise MSTKDError(f"{name} is an array of shape {array.shape}; give one volume (Z, Y, X)")
    if array.dtype.kind not in "biuf":
        raise MSTKDError(f"{name} is an array of type {array.dtype}; give real numbers")
    numbers = {"spacing": 3, "origin": 3, "direction": 9}
    grid = {key: _numbers(name, key, getattr(volume, key), count) for key, count in numbers.items()}
    if min(grid["spacing"]) <= 0:
        raise MSTKDError(f"{name} has the spacing {grid['spacing']}; give three lengths in mm above 0")
    try:
        stored = array.astype(_pixel_type(array.dtype), copy=False)
        return image_on_grid(stored, Geometry(array.shape[::-1], **grid))
    except (RuntimeError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise MSTKDError(f"SimpleITK does not take the array given for {name}: {reason}") from None


def _pixel_type(dtype: np.dtype) -> np.dtype:
    """The type itself, or one that SimpleITK has for those that it has not."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("=")


def _numbers(name: str, what: str, values: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in np.ravel(values))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise MSTKDError(f"{name} has the {what} {values!r}; give {count} numbers")
    return numbers


def geometry_in_memory(name: str, image: sitk.Image, dimensions: Sequence[int] = (3,)) -> Geometry:
    """The grid of an image.

    Raises:
        MSTKDError: its number of axes is not among ``dimensions``, or it has several values per voxel.
    """
    if image.GetDimension() not in dimensions or image.GetNumberOfComponentsPerPixel() != 1:
        axes = " or ".join(f"{n}D" for n in dimensions)
        raise MSTKDError(
            f"{name} is a {image.GetDimension()}D image with {image.GetNumberOfComponentsPerPixel()} value(s)"
            f" per voxel; give a {axes} one with one"
        )
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def read_image(image: sitk.Image, reader: BaseReaderWriter) -> tuple[np.ndarray, dict[str, Any]]:
    """What ``reader`` would say of a file with this image: (1, Z, Y, X) float32, and its properties.

    A 2D image is one of a single slice.
    """
    if isinstance(reader, NaturalImage2DIO):
        return sitk.GetArrayFromImage(image)[None, None].astype(np.float32), {"spacing": (999, 1, 1)}
    if isinstance(reader, Tiff3DIO):
        return sitk.GetArrayFromImage(image)[None].astype(np.float32), {"spacing": image.GetSpacing()[::-1]}
    if type(reader) is not SimpleITKIO:
        with TemporaryDirectory(prefix="nnunetv2_mstkd_") as folder:
            path = Path(folder, "image.nii.gz")
            sitk.WriteImage(image, str(path))
            return reader.read_images((str(path),))
    spacing = image.GetSpacing()
    properties = {
        "sitk_stuff": {
            "spacing": spacing,
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
        },
        "spacing": [abs(length) for length in reversed(spacing)],  # of the array's axes
    }
    array = sitk.GetArrayFromImage(image)
    if array.ndim == 2:
        array, properties["spacing"] = array[None], [max(spacing) * 999, *properties["spacing"]]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which is refused later
        return array[None].astype(np.float32), properties


def written_image(array: np.ndarray, properties: dict[str, Any], writer: BaseReaderWriter) -> sitk.Image:
    """The image that ``writer`` would write: labels on the grid of the input, however the reader turned it.

    Args:
        array: (Z, Y, X) labels on the reader's grid.
        properties: what the reader said of the input.
    """
    if isinstance(writer, NaturalImage2DIO):
        return sitk.GetImageFromArray(array[0])
    if isinstance(writer, Tiff3DIO):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(mm) for mm in reversed(properties["spacing"])])
        return image
    if type(writer) is not SimpleITKIO:
        with TemporaryDirectory(prefix="nnunetv2_mstkd_") as folder:
            path = str(Path(folder, "segmentation.nii.gz"))
            writer.write_seg(array, path, properties)
            return sitk.ReadImage(path)
    if len(properties["sitk_stuff"]["spacing"]) == 2:
        array = array[0]
    return image_on_grid(array, Geometry(array.shape[::-1], **properties["sitk_stuff"]))
