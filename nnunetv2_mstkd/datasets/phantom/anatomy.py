"""Shapes of the phantom: a brain with its tissues, and a tumour of edema, rim and core.

Everything scales with the brain, so that a 32-voxel phantom shows the same things as one of BraTS size.
All arrays are indexed (x, y, z) with x to the left, y to the back and z to the top of the head.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError


class Tissue(IntEnum):
    """Values of a tissue map."""

    OUTSIDE = 0
    WHITE = 1
    GREY = 2
    CSF = 3
    VESSEL = 4
    EDEMA = 5
    NECROSIS = 6
    ENHANCING = 7


# Tissue -> BraTS 2023 label value; everything else is background.
LABELS: dict[Tissue, int] = {Tissue.NECROSIS: 1, Tissue.EDEMA: 2, Tissue.ENHANCING: 3}

# Semi-axes of the brain relative to its longest one (left-right, front-back, bottom-top).
_PROPORTIONS = np.array((0.80, 1.0, 0.77))
_MARGIN = 0.92  # share of the volume's half-width that the brain may fill
_SMALLEST_PART = 0.0015  # volume of the smallest tumour part that is kept, in cubed brain units
_FEWEST_VOXELS = 6  # and in voxels


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], wavelength: float) -> np.ndarray:
    """Random field of mean 0 and standard deviation 1 with structures about ``wavelength`` voxels wide.

    A sum of random cosines, evaluated one axis after the other, so that its cost does not grow with the
    smoothness as that of a Gaussian filter does.
    """
    counts = [max(2, math.ceil(3 * n / wavelength)) for n in shape]
    axes = [np.arange(count) / (2 * n) for count, n in zip(counts, shape, strict=True)]
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij")))
    field = rng.standard_normal(counts) * np.exp(-((frequency * wavelength) ** 2))
    field[0, 0, 0] = 0.0
    for count, n in zip(counts, shape, strict=True):
        basis = np.cos(np.pi * np.outer(np.arange(count), (np.arange(n) + 0.5) / n))
        # The axis that is done goes last, so three rounds restore the order.
        field = np.tensordot(field, basis, axes=(0, 0))
    return (field - field.mean()) / field.std()


class Grid:
    """Voxel coordinates in units of the brain's longest semi-axis, with the origin in its centre."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        half = np.array(shape) / 2
        self.scale = float((_MARGIN * half / _PROPORTIONS).min())  # voxels per unit
        self.x, self.y, self.z = np.ogrid[tuple(slice(0, n) for n in shape)]
        self.x, self.y, self.z = (
            (axis + 0.5 - middle) / self.scale
            for axis, middle in zip((self.x, self.y, self.z), half, strict=True)
        )

    def distance(self, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Ellipsoidal distance from ``centre``, 1 on the surface of the ellipsoid with these semi-axes."""
        parts = zip((self.x, self.y, self.z), centre, radii, strict=True)
        return np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in parts))

    def field(self, rng: np.random.Generator, wavelength: float) -> np.ndarray:
        """``smooth_field`` with the wavelength in brain units, at least three voxels."""
        return smooth_field(rng, self.shape, max(3.0, wavelength * self.scale))


def brain_tissues(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Tissue map (uint8) of a healthy, skull-stripped brain."""
    depth = grid.distance(np.zeros(3), _PROPORTIONS) + 0.03 * grid.field(rng, 0.7)
    # Sulci are sheets (where a field crosses zero) that narrow inwards; a ribbon of grey matter lines them.
    folds = _nearly_symmetric(grid.field(rng, 0.24))
    reach = np.clip((depth - 0.66 + 0.05 * grid.field(rng, 0.4)) / 0.34, 0, 1)
    sulci = np.abs(folds) < 0.30 * reach
    cortex = ((np.abs(folds) < 0.30 * reach + 0.42) & (reach > 0)) | (depth > 0.93)
    fissure = (np.abs(grid.x) < 0.018 + 0.012 * depth) & (depth > 0.5) & (grid.z > -0.1)
    side = np.abs(grid.x) + 0.012 * folds
    bend = grid.z - 0.10 + 0.55 * grid.y**2
    ventricles = (((side - 0.13) / 0.08) ** 2 + (grid.y / 0.42) ** 2 + (bend / 0.14) ** 2) < 1
    nuclei = (((side - 0.22) / 0.10) ** 2 + ((grid.y - 0.05) / 0.22) ** 2 + ((grid.z + 0.06) / 0.12) ** 2) < 1
    # Two level sets cross in lines: vessels.
    vessels = (np.abs(folds) < 0.10) & (np.abs(grid.field(rng, 0.35)) < 0.06) & (depth > 0.55)

    tissues = np.full(grid.shape, Tissue.WHITE, dtype=np.uint8)
    tissues[cortex | nuclei] = Tissue.GREY
    tissues[sulci | fissure | ventricles] = Tissue.CSF
    tissues[vessels & ~ventricles] = Tissue.VESSEL
    tissues[depth > 1] = Tissue.OUTSIDE
    return tissues


def _nearly_symmetric(field: np.ndarray) -> np.ndarray:
    """Make left and right alike, but not the same."""
    return 0.8 * field + 0.6 * field[::-1]


def add_tumour(rng: np.random.Generator, grid: Grid, tissues: np.ndarray) -> np.ndarray:
    """A copy of the tissue map with a tumour in it: core inside rim inside edema, all of irregular shape.

    Position and size are drawn again until every part has at least a few voxels.

    Raises:
        MSTKDError: none fits, which the smallest shape that the phantom takes has not shown.
    """
    fewest = max(_FEWEST_VOXELS, _SMALLEST_PART * grid.scale**3)
    for _ in range(100):
        edema, core, necrosis = _tumour_parts(rng, grid, tissues)
        result = tissues.copy()
        result[edema] = Tissue.EDEMA
        result[core] = Tissue.ENHANCING
        result[necrosis] = Tissue.NECROSIS
        if all((result == part).sum() >= fewest for part in LABELS):
            return result
    raise MSTKDError(f"no tumour fits into a brain of shape {grid.shape}; choose a larger shape")


def _tumour_parts(
    rng: np.random.Generator, grid: Grid, tissues: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of edema (core included), core (necrosis included) and necrosis."""
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    centre = direction * _PROPORTIONS * rng.uniform(0.30, 0.62)
    centre[0] = math.copysign(max(abs(centre[0]), 0.2), centre[0])  # beside the midline, not across it
    radius = rng.uniform(0.30, 0.46)
    core_radius = radius * rng.uniform(0.50, 0.72)
    rim = max(core_radius * rng.uniform(0.25, 0.5), 1.3 / grid.scale)  # at least about one voxel thick

    inside = tissues != Tissue.OUTSIDE
    fluid = tissues == Tissue.CSF
    stretch = rng.uniform(0.85, 1.2, size=3)
    edge = grid.distance(centre, radius * stretch) + 0.17 * grid.field(rng, radius)
    edge = edge + 0.2 * (tissues == Tissue.GREY)  # edema spreads along white matter
    core_centre = centre + rng.uniform(-0.15, 0.15, size=3) * radius
    core_edge = grid.distance(core_centre, core_radius * rng.uniform(0.85, 1.15, size=3))
    core_edge = core_edge + 0.13 * grid.field(rng, 0.8 * core_radius)
    core = (core_edge < 1) & inside
    necrosis = core & (core_edge + 0.10 * grid.field(rng, 0.5 * core_radius) < 1 - rim / core_radius)
    edema = ((edge < 1) & inside & ~fluid) | core
    return edema, core, necrosis
