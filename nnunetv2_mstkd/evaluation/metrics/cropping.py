"""The smallest box that holds what is to be measured: metrics need not look at the rest of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = tuple[slice, ...]


def bounding_box(mask: np.ndarray) -> Box | None:
    """Find the smallest box around the True voxels of a bool array (2D or 3D); None where there are none."""
    # Each projection is taken of what the one before has left.
    bounds: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        if inside.size == 0:
            return None
        bounds.append(slice(int(inside[0]), int(inside[-1]) + 1))
        mask = mask[(slice(None),) * axis + (bounds[axis],)]
    return tuple(bounds)


def grow(box: Sequence[slice], voxels: int, shape: Sequence[int]) -> Box:
    """Widen the box by ``voxels`` on every side, cut at the borders of an array of ``shape``."""
    return tuple(
        slice(max(side.start - voxels, 0), min(side.stop + voxels, size))
        for side, size in zip(box, shape, strict=True)
    )
