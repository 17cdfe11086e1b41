"""The bytes of NIfTI-1 files: what their header promises, and whether it is there.

SimpleITK returns a truncated file as if it were whole, may read a 4D file as a 3D one with several values
per voxel, and turns NaN and Inf into 0. Each would end as a silently wrong segmentation.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError

NIFTI_ENDINGS: tuple[str, ...] = (".nii.gz", ".nii")

_CHUNK = 1 << 20  # bytes; a multiple of every voxel size
_MOST_HEADER_BYTES = 1 << 28  # extensions included; what is beyond is no offset
_FLOAT_CODES = {16: "f4", 64: "f8"}  # NIfTI data type → numpy


def is_nifti_name(name: str) -> bool:
    """Whether a file name ends like NIfTI."""
    return name.lower().endswith(NIFTI_ENDINGS)


def without_ending(name: str) -> str:
    """``"case.nii.gz"`` → ``"case"``."""
    return next((name[: -len(e)] for e in NIFTI_ENDINGS if name.lower().endswith(e)), name)


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI-1 header (nifti1.h) says about the bytes behind it.

    Attributes:
        shape: voxels along x, y, z, ...; axes of length one beyond the third are dropped.
        offset: bytes before the first voxel.
        total_bytes: bytes of header, extensions and voxels.
        float_type: type of the voxels if it is floating point, else None.
    """

    shape: tuple[int, ...]
    offset: int
    total_bytes: int
    float_type: np.dtype | None


def read_header(path: Path) -> NiftiHeader:
    """Read the header of a ``.nii`` or ``.nii.gz`` file.

    Raises:
        MSTKDError: the file cannot be opened or does not begin with a NIfTI-1 header.
    """
    with opened(path) as stream:
        try:
            raw = stream.read(348)
        except (OSError, EOFError, zlib.error) as error:
            raise MSTKDError(f"{path} is truncated or not NIfTI ({error}); fetch the file again") from None
    for order in "<>":
        if len(raw) == 348 and struct.unpack_from(f"{order}i", raw)[0] == 348:
            break
    else:
        raise MSTKDError(f"{path} is truncated or not a NIfTI-1 file; fetch the file again")
    count, *sizes = struct.unpack_from(f"{order}8h", raw, 40)
    code, bits = struct.unpack_from(f"{order}2h", raw, 70)
    (offset,) = struct.unpack_from(f"{order}f", raw, 108)
    shape = _trimmed(sizes[: max(0, min(7, count))])
    float_type = np.dtype(order + _FLOAT_CODES[code]) if code in _FLOAT_CODES else None
    if not 0 <= offset <= _MOST_HEADER_BYTES:  # nan is neither
        raise MSTKDError(f"{path} is damaged: its voxels begin at byte {offset}; fetch the file again")
    if float_type is not None and bits != 8 * float_type.itemsize:
        raise MSTKDError(f"{path} is damaged: {float_type} voxels of {bits} bits; fetch the file again")
    return NiftiHeader(shape, int(offset), int(offset) + math.prod(shape) * bits // 8, float_type)


def check_dimensions(path: Path, header: NiftiHeader, dimensions: Sequence[int]) -> None:
    """Refuse a file whose number of axes is not among ``dimensions``, or an empty one.

    Raises:
        MSTKDError: the message gives the shape.
    """
    if len(header.shape) not in dimensions or min(header.shape) < 1:
        text = "x".join(map(str, header.shape)) or "empty"
        axes = " or ".join(f"{n}D" for n in dimensions)
        remedy = "; give one 3D file per modality" if 3 in dimensions else ""
        raise MSTKDError(f"{path} is {len(header.shape)}D ({text}), not {axes}{remedy}")


def count_non_finite(path: Path) -> int:
    """Number of NaN and Inf voxels as they are in the file, which is read to its end.

    Raises:
        MSTKDError: gzip's own sum is wrong, or the file is shorter than its header says.
    """
    header = read_header(path)
    broken = 0
    with opened(path) as stream:
        try:
            present = len(stream.read(header.offset))
            while chunk := stream.read(_CHUNK):
                present += len(chunk)
                if header.float_type is not None:
                    whole = len(chunk) // header.float_type.itemsize
                    voxels = np.frombuffer(chunk, dtype=header.float_type, count=whole)
                    broken += whole - int(np.isfinite(voxels).sum())
        except (OSError, EOFError, zlib.error) as error:
            raise MSTKDError(f"{path} is truncated or damaged ({error}); fetch the file again") from None
    if present < header.total_bytes:
        expected = header.total_bytes
        raise MSTKDError(f"{path} is truncated: {present} of {expected} bytes; fetch the file again")
    return broken


def check_voxels(path: Path) -> None:
    """Refuse a NIfTI file that is not whole, or has voxels that are no numbers; other formats pass.

    Raises:
        MSTKDError: as :func:`count_non_finite`, or there are such voxels.
    """
    refuse_non_finite(path, count_non_finite(path) if is_nifti_name(path.name) else 0)


def refuse_non_finite(path: Path, count: int) -> None:
    """Refuse a file with so many voxels that are no numbers, unless there are none.

    Raises:
        MSTKDError: there are some.
    """
    if count:
        raise MSTKDError(f"{path} has {count} NaN or Inf voxels; repair or leave out this file")


def opened(path: Path) -> BinaryIO | gzip.GzipFile:
    """Open a ``.nii`` or ``.nii.gz`` file for reading its plain bytes.

    Raises:
        MSTKDError: it cannot be opened.
    """
    try:
        return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")
    except OSError as error:
        reason = error.strerror or str(error)
        if path.is_symlink() and not path.exists():
            reason += f"; it is a link to {path.readlink()}: was that moved?"
        raise MSTKDError(f"cannot read {path}: {reason}") from None


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """``(8, 8, 8, 1)`` is a 3D volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)
