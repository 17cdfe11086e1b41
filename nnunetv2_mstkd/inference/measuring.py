"""What a segmentation says in numbers: size, lesions and place of every region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import center_of_mass, find_objects, generate_binary_structure, label

from nnunetv2_mstkd.datasets.regions import Regions, region_mask


@dataclass(frozen=True)
class RegionStatistics:
    """One region of one segmentation.

    Attributes:
        voxels: how many it has.
        voxel_size: mm³ of a voxel; mm² of a pixel of a 2D image.
        lesion_voxels: voxels of each lesion, the largest first. A lesion is a connected component; voxels
            that share a corner are connected (26 neighbours, 8 in 2D). None is too small to be counted.
        centroid_mm: (x, y, z), mean position of the voxels, in the coordinates of NIfTI: x grows to the
            patient's right, y to the front, z upwards. Of a 2D image (x, y) in its own coordinates. None
            without voxels.
        dimensions: 3, or 2.
    """

    voxels: int
    voxel_size: float
    lesion_voxels: tuple[int, ...]
    centroid_mm: tuple[float, ...] | None
    dimensions: int = 3

    @property
    def volume_ml(self) -> float | None:
        """Volume in ml; None of a 2D image, which has an area."""
        return self.voxels * self.voxel_size / 1000 if self.dimensions == 3 else None

    @property
    def area_mm2(self) -> float | None:
        """Area of a 2D image's region in mm²; None in 3D."""
        return self.voxels * self.voxel_size if self.dimensions == 2 else None

    @property
    def lesion_sizes(self) -> tuple[float, ...]:
        """Volumes of the lesions in ml, or areas in mm² of a 2D image; the largest first."""
        unit = 1000 if self.dimensions == 3 else 1
        return tuple(voxels * self.voxel_size / unit for voxels in self.lesion_voxels)

    def lesions_over(self, size: float) -> int:
        """Count lesions of more than a size in mm³ (mm² in 2D)."""
        # Spacing in headers is rounded: 50 voxels of 1.0000001 mm are still 50 mm³.
        return sum(voxels * self.voxel_size > size * (1 + 1e-5) for voxels in self.lesion_voxels)


def measure_regions(
    array: np.ndarray,
    regions: Regions,
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: Sequence[float],
) -> dict[str, RegionStatistics]:
    """Measure the regions of a segmentation; only the box around all of it is looked at.

    Args:
        array: (Z, Y, X) or (Y, X) label values.
        regions: name → label values.
        spacing: (x, y, z) in mm, or (x, y).
        origin: the same, in the coordinates of DICOM and SimpleITK.
        direction: direction cosines, row by row.
    """
    boxes = find_objects((array != 0).view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 0),) * array.ndim
    start = np.array([side.start for side in box])
    to_mm = np.reshape(direction, (array.ndim, array.ndim)) * np.asarray(spacing)
    # DICOM counts x to the left and y to the back.
    signs = np.array((-1, -1, 1)) if array.ndim == 3 else np.ones(2)

    def centroid(mask: np.ndarray) -> tuple[float, ...]:
        index = (np.array(center_of_mass(mask)) + start)[::-1]
        return tuple(float(v) for v in signs * (np.asarray(origin) + to_mm @ index))

    voxel_size, inside = math.prod(map(float, spacing)), array[box]
    neighbours = generate_binary_structure(array.ndim, array.ndim)
    found = {}
    for name, values in regions.items():
        mask = region_mask(inside, values)
        components, _ = label(mask, neighbours)
        sizes = np.bincount(components.ravel())[1:] if mask.size else np.zeros(0, dtype=int)
        found[name] = RegionStatistics(
            voxels=int(sizes.sum()),
            voxel_size=voxel_size,
            lesion_voxels=tuple(sorted(map(int, sizes), reverse=True)),
            centroid_mm=centroid(mask) if sizes.size else None,
            dimensions=array.ndim,
        )
    return found
