"""Regions of a segmentation painted over an image, and the part of a slice that is worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb

from nnunetv2_mstkd.datasets.regions import region_mask

ALPHA = 0.5
# Tumour and prediction take up at most this part of the window's side.
_FILLED = 0.6
_LEAST_OF_BODY = 0.5  # the window's side, as a part of the body's extent


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    regions: Mapping[str, tuple[int, ...]],
    colors: Mapping[str, str],
    alpha: float = ALPHA,
) -> np.ndarray:
    """Paint regions over a grey image, those of more labels first, so that inner ones stay visible.

    Args:
        image: (Y, X), 0 (black) to 1 (white).
        labels: (Y, X), label values.
        regions: name → label values.
        colors: name → colour.
        alpha: opacity of the colours.

    Returns:
        (Y, X, 3), 0 to 1.
    """
    result = np.repeat(image[..., None].astype(float), 3, axis=-1)
    for name in sorted(regions, key=lambda region: -len(regions[region])):
        mask = region_mask(labels, regions[name])
        result[mask] = blended(colors[name], image[mask][:, None], alpha)
    return result


def blended(color: str, grey: float | np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Return a colour as it is seen over a grey of 0 to 1: RGB, 0 to 1."""
    return (1 - alpha) * grey + alpha * np.array(to_rgb(color))


def grey(image: np.ndarray) -> np.ndarray:
    """Scale intensities (any shape) to 0 to 1, between the 1st and the 99.5th percentile of the nonzero."""
    body = image[image != 0]
    if not body.size:
        return np.zeros(image.shape)
    low, high = np.percentile(body, (1, 99.5))
    low = min(low, 0.0) if low < 0 < high else low
    scaled = (image - low) / max(high - low, 1e-6)
    return np.where(image != 0, np.clip(scaled, 0, 1), 0.0)


def best_slice(labels: np.ndarray, regions: Mapping[str, tuple[int, ...]]) -> int:
    """Find the z of label values (Z, Y, X) that shows most.

    That of the largest area of all regions together; of several, the one with most regions in it; the middle
    one where there is nothing.
    """
    masks = np.stack([region_mask(labels, values) for values in regions.values()])
    areas, counts = masks.any(axis=0).sum(axis=(1, 2)), masks.any(axis=(2, 3)).sum(axis=0)
    if not areas.any():
        return len(labels) // 2
    return int(np.lexsort((-np.arange(len(labels)), counts, areas))[-1])


def window(target: np.ndarray, body: np.ndarray, spacing: tuple[float, float]) -> tuple[slice, slice]:
    """Find the part of a slice around ``target``, square in mm unless the slice is too small.

    Args:
        target: (Y, X) bool, what must be seen; empty shows the body.
        body: (Y, X) bool.
        spacing: mm of Y and X.
    """
    boxes = [_box(mask) for mask in (target, body)]
    around = boxes[0] or boxes[1] or [(0, size) for size in target.shape]
    extents = [max((b - a) * mm for (a, b), mm in zip(box, spacing, strict=True)) for box in boxes if box]
    side = max([extents[0] / _FILLED, _LEAST_OF_BODY * extents[-1]]) if extents else np.inf
    rows, columns = (
        _span((a + b) / 2, side / mm, size)
        for (a, b), mm, size in zip(around, spacing, target.shape, strict=True)
    )
    return rows, columns


def _box(mask: np.ndarray) -> Sequence[tuple[int, int]] | None:
    found = np.nonzero(mask)
    return [(int(f.min()), int(f.max()) + 1) for f in found] if found[0].size else None


def _span(center: float, length: float, size: int) -> slice:
    """Place ``length`` pixels around ``center``, moved into 0 to ``size``."""
    pixels = int(min(np.ceil(length), size))
    start = int(np.clip(round(center - pixels / 2), 0, size - pixels))
    return slice(start, start + pixels)
