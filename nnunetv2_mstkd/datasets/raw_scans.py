"""What gives raw scans away: a background that is not zero, sequences that do not overlap.

BraTS-like data are registered and skull-stripped: most voxels are exactly zero, the same in every sequence. A
model that learnt from such images takes a skull or a shifted sequence without complaint and segments badly.

The limits below were set on 19 BraTS patients, two crops of Decathlon cases and the phantom (30 November
2026). There 26 % and more of the voxels are zero, and over 99 % of the smaller foreground lies in the other;
moved by a tenth of the field of view, less than 83 % (crops: 95 %, which is not seen).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from nnunetv2_mstkd.datasets.volumes import RAW_SCANS

_LEAST_ZEROS = 0.1
_LEAST_OVERLAP = 0.83
_STEP = 2  # every second voxel along each axis is enough


def doubts(volumes: Mapping[str, np.ndarray]) -> list[str]:
    """Say what speaks against images being registered and skull-stripped.

    Args:
        volumes: modality → array (Z, Y, X), all of one grid.

    Returns:
        One line for each doubt; none where nothing is wrong, which is no proof that all is well.
    """
    lines = []
    coarse = {name: v[tuple(_coarse(length) for length in v.shape)] for name, v in volumes.items()}
    backgrounds = {name: _filled_background(v) for name, v in volumes.items()}
    filled = {name: value for name, value in backgrounds.items() if value is not None}
    if filled:
        values = ", ".join(f"{name} {value:g}" for name, value in filled.items())
        lines.append(f"the background is not 0 ({values}); set it to 0, or the network takes it for tissue")
    skulls = [
        name
        for name, v in coarse.items()
        if name not in filled and np.count_nonzero(v == 0) < _LEAST_ZEROS * v.size
    ]
    if skulls:
        lines.append(f"likely not skull-stripped: hardly a voxel is 0 in {', '.join(skulls)}; {RAW_SCANS}")
    masks = {name: _foreground(v, filled.get(name, 0.0)) for name, v in coarse.items()}
    for (one, mask), (other, second) in combinations(masks.items(), 2):
        smaller = min(int(mask.sum()), int(second.sum()))
        overlap = int((mask & second).sum()) / max(1, smaller)
        if overlap < _LEAST_OVERLAP:
            lines.append(
                f"likely not registered: {one} and {other} share a grid, but only {overlap:.0%} of the"
                f" smaller foreground lies in the other; {RAW_SCANS}"
            )
    return lines


def _coarse(length: int) -> slice:
    return slice(None, None, _STEP if length > 8 else 1)


def _filled_background(volume: np.ndarray) -> float | None:
    """The background's value where it is one, but not 0: normalising the whole image makes it so."""
    ends = (index for axis in range(volume.ndim) for index in _ends(axis))
    faces = np.concatenate([volume[index].ravel() for index in ends])
    value = float(faces[0])
    if value == 0 or np.count_nonzero(faces == faces[0]) < 0.9 * faces.size:
        return None
    return None if np.count_nonzero(volume == faces[0]) < _LEAST_ZEROS * volume.size else value


def _ends(axis: int) -> tuple[tuple[slice | int, ...], tuple[slice | int, ...]]:
    whole = (slice(None),) * axis
    return (*whole, 0), (*whole, -1)


def _foreground(volume: np.ndarray, background: float) -> np.ndarray:
    """Where the head is: off the background, or, where everything has noise in it, brighter than the mean."""
    off = volume != background
    return off if np.count_nonzero(off) <= (1 - _LEAST_ZEROS) * volume.size else volume > volume.mean()
