"""What Dice and HD95 are where a mask is empty. There is no right answer, so it is an explicit choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunetv2_mstkd.evaluation.metrics.overlap import dice

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore

# The four cases, by which of the masks are empty.
NEITHER, PREDICTION, REFERENCE, BOTH = "neither", "prediction", "reference", "both"
HD95_PENALTY = 374.0  # mm; about the diagonal of a 240×240×155 mm volume (373.13), as BraTS 2023 rounds it


@dataclass(frozen=True)
class Policy:
    """Values for empty masks.

    Attributes:
        name: key in :data:`POLICIES`.
        empty_dice: empty masks (``"prediction"``, ``"reference"``, ``"both"``) → Dice. A case that is
            not there takes what the formula gives.
        empty_hd95: the same for HD95, in mm; every case is there.
        smooth: added to numerator and denominator of every Dice.
        source: where the values are from.
    """

    name: str
    empty_dice: Mapping[str, float]
    empty_hd95: Mapping[str, float]
    source: str
    smooth: float = 0.0

    def dice(self, score: RegionScore) -> float:
        """Return the Dice of a region, in 0 to 1, or nan where the policy leaves it undefined."""
        case = empty_case(score)
        if case in self.empty_dice:
            return self.empty_dice[case]
        return dice(score.tp, score.fp, score.fn, smooth=self.smooth)

    def hd95(self, score: RegionScore) -> float:
        """Return the HD95 of a region in mm, or nan where the policy leaves it undefined."""
        if score.hd95 is not None:
            return score.hd95
        return self.empty_hd95[empty_case(score)]


def empty_case(score: RegionScore) -> str:
    """Say which of the masks that a score is of are empty: one of the four cases."""
    prediction, reference = score.tp + score.fp == 0, score.tp + score.fn == 0
    if prediction and reference:
        return BOTH
    if prediction:
        return PREDICTION
    return REFERENCE if reference else NEITHER


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(
            "brats",
            empty_dice={PREDICTION: 0.0, REFERENCE: 0.0, BOTH: 1.0},
            empty_hd95={PREDICTION: HD95_PENALTY, REFERENCE: HD95_PENALTY, BOTH: 0.0},
            source="BraTS 2023 evaluation code: eval.py,"
            " github.com/rachitsaluja/BraTS-2023-Metrics at 0e272e6",
        ),
        Policy(
            "nnunet",
            empty_dice={PREDICTION: 0.0, REFERENCE: 0.0, BOTH: math.nan},
            empty_hd95={PREDICTION: math.nan, REFERENCE: math.nan, BOTH: math.nan},
            source="nnunetv2.evaluation.evaluate_predictions.compute_metrics (2.8.1) for Dice;"
            " nnU-Net has no HD95, which stays undefined here",
        ),
        Policy(
            "official",
            # None for Dice: smoothing makes it 1 for two empty masks, 1 / (n + 1) for one of n voxels.
            empty_dice={},
            empty_hd95={PREDICTION: 0.0, REFERENCE: 0.0, BOTH: 0.0},
            smooth=1.0,
            source="released MST-KDNet metric: class Dice of losses.py and hd95 of binary.py,"
            " github.com/Quanato607/MST-KDNet at 2c77373",
        ),
    )
}
