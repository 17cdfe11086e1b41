"""What is measured of one case: raw facts per region. Policies turn them into Dice and HD95."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.regions import Regions, region_mask
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.cropping import bounding_box
from nnunetv2_mstkd.evaluation.metrics.hausdorff import hd95
from nnunetv2_mstkd.evaluation.metrics.lesionwise import LesionRules, LesionScore, score_lesions
from nnunetv2_mstkd.evaluation.metrics.overlap import count_overlap


@dataclass(frozen=True)
class RegionScore:
    """Raw facts about one region of one case.

    Attributes:
        tp, fp, fn: voxels that both have, only the prediction, only the reference.
        hd95: mm; None where a mask is empty.
        voxel_volume: mm³ (mm² in 2D).
        lesions: lesion-wise scores, where they were asked for.

    Raises:
        ValueError: ``hd95`` and the counts do not agree about what is empty.
    """

    tp: int
    fp: int
    fn: int
    hd95: float | None
    voxel_volume: float
    lesions: LesionScore | None = None

    def __post_init__(self) -> None:
        empty = self.tp + self.fp == 0 or self.tp + self.fn == 0
        if empty != (self.hd95 is None):
            raise ValueError(f"HD95 {self.hd95} with tp {self.tp}, fp {self.fp}, fn {self.fn}")

    @property
    def volume_prediction(self) -> float:
        """mm³."""
        return (self.tp + self.fp) * self.voxel_volume

    @property
    def volume_reference(self) -> float:
        """mm³."""
        return (self.tp + self.fn) * self.voxel_volume

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RegionScore:
        """Read the score that :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        lesions = content["lesions"]
        return cls(**{**content, "lesions": None if lesions is None else LesionScore(**lesions)})


def score_arrays(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    regions: Regions,
    *,
    ignore: int | None = None,
    lesion_rules: LesionRules | None = None,
) -> dict[str, RegionScore]:
    """Compare two segmentations of one case.

    HD95 of an image of one slice is measured in its plane, that of lesions too: in 3D every voxel of a mask
    would be surface.

    Args:
        prediction, reference: label values, (Z, Y, X) or (Y, X), of one shape.
        spacing: mm per array axis.
        regions: name → label values.
        ignore: voxels of this reference label count nowhere: they are taken out of both masks.
        lesion_rules: score lesions too, by these rules.

    Returns:
        Region → facts, in the order of ``regions``.

    Raises:
        MSTKDError: the shapes differ, or the spacing has another number of axes.
    """
    _check_geometry(prediction.shape, reference.shape, spacing)
    voxel_volume = float(np.prod(spacing))
    single = tuple(axis for axis, length in enumerate(prediction.shape) if length == 1 < prediction.size)
    in_plane = [length for axis, length in enumerate(spacing) if axis not in single]
    labelled = (prediction != 0) | (reference != 0)
    box = None if any(0 in labels for labels in regions.values()) else bounding_box(labelled)
    if box is not None:
        # No region has a voxel outside of the box, and its faces are as good as the image's.
        prediction, reference = prediction[box], reference[box]
    counted = None if ignore is None else reference != ignore
    scores = {}
    for name, labels in regions.items():
        predicted, wanted = region_mask(prediction, labels), region_mask(reference, labels)
        if counted is not None:
            predicted, wanted = predicted & counted, wanted & counted
        predicted, wanted = predicted.squeeze(single), wanted.squeeze(single)
        lesions = None
        if lesion_rules is not None:
            lesions = score_lesions(predicted, wanted, in_plane, lesion_rules, voxel_volume=voxel_volume)
        scores[name] = RegionScore(
            *count_overlap(predicted, wanted),
            hd95=hd95(predicted, wanted, in_plane),
            voxel_volume=voxel_volume,
            lesions=lesions,
        )
    return scores


def _check_geometry(
    prediction: tuple[int, ...], reference: tuple[int, ...], spacing: Sequence[float]
) -> None:
    if prediction != reference:
        raise MSTKDError(
            f"the prediction has shape {prediction}, the reference {reference}; both must be in the geometry"
            " of the images"
        )
    if len(spacing) != len(prediction):
        raise MSTKDError(
            f"spacing {tuple(spacing)} for {len(prediction)} axes; give one value in mm per axis"
        )
