"""The regions that a data set is scored on: its labels, or regions where it has them; their volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Regions = Mapping[str, tuple[int, ...]]


def regions_of(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Map name to label values, in the order of ``dataset.json``; without background and the ignore label.

    Source: nnunetv2's LabelManager (a label is a value or, for regions, a list of values).
    """
    values = {
        name: tuple(int(v) for v in (label if isinstance(label, (list, tuple)) else (label,)))
        for name, label in dataset_json["labels"].items()
        if name != "ignore"
    }
    return {name: labels for name, labels in values.items() if labels != (0,)}


def summary_keys(dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Map name to its key in nnU-Net's ``summary.json``: ``3`` for a label, ``(3,)`` for a region of one.

    Source: nnunetv2.evaluation.evaluate_predictions (``label_or_region_to_key``) and LabelManager.
    """
    listed = {name for name, label in dataset_json["labels"].items() if isinstance(label, (list, tuple))}
    regions = regions_of(dataset_json)
    return {name: str(labels if name in listed else labels[0]) for name, labels in regions.items()}


def ignore_label(dataset_json: Mapping[str, Any]) -> int | None:
    """Return the value of voxels that nobody labelled, or None."""
    value = dataset_json["labels"].get("ignore")
    return None if value is None else int(value)


def region_mask(segmentation: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
    """Mark where a segmentation (any shape) has one of the labels: bool, the same shape."""
    if len(labels) == 1:
        return segmentation == labels[0]
    return np.isin(segmentation, labels)


def is_flat(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Say whether the first axis is the one that nnU-Net's readers put before a 2D image.

    Its spacing says so: 999, in SimpleITK's reader times the larger of the others.
    """
    if len(shape) != 3 or shape[0] != 1:
        return False
    return any(np.isclose(spacing[0], placeholder) for placeholder in (999, 999 * max(spacing[1:])))


def region_volumes(segmentation: np.ndarray, regions: Regions, spacing: Sequence[float]) -> dict[str, float]:
    """Measure each region of a segmentation (Z, Y, X): mm³, or mm² of a 2D image (1, Y, X).

    Args:
        segmentation: label values of the data set.
        regions: name → label values.
        spacing: mm per array axis.
    """
    lengths = spacing[1:] if is_flat(segmentation.shape, spacing) else spacing
    counts = np.bincount(segmentation.ravel().astype(np.int64))
    voxel = float(np.prod(lengths))
    return {
        name: voxel * float(sum(counts[label] for label in set(labels) if label < len(counts)))
        for name, labels in regions.items()
    }
