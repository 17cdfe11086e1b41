"""What nnU-Net calls the regions that are scored, and what is left out of scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_mstkd.datasets.regions import regions_of


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
