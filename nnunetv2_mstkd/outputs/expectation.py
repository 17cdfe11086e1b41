"""What a segmentation is worth, as statistics, their table and the page show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnunetv2_mstkd.inference.records import EXPECTED_KEY, FOLD_AGREEMENT_KEY

_ML = "ml"


@dataclass(frozen=True)
class Expectation:
    """What to expect of one region of one case; None where nothing is known.

    Attributes:
        dice: median, 0 to 1.
        dice_low, dice_high: the interval around it.
        volume_error_ml: expected absolute error of the volume; not of 2D images.
        disagreement: of the folds, where there are several: 1 minus their mean pairwise Dice.
        review: whether a reader should look.
        would_help: the absent sequence that would help most.
        would_help_dice: by how much, on average over the patients measured.
    """

    dice: float | None = None
    dice_low: float | None = None
    dice_high: float | None = None
    volume_error_ml: float | None = None
    disagreement: float | None = None
    review: bool | None = None
    would_help: str | None = None
    would_help_dice: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``statistics.json`` holds."""
        return asdict(self)


def expectations_of(entry: Mapping[str, Any]) -> dict[str, Expectation]:
    """Take what ``predict`` knew of a case's regions from its entry of ``modalities.json``.

    Regions of which nothing is known are left out.
    """
    expected, agreement = entry.get(EXPECTED_KEY) or {}, entry.get(FOLD_AGREEMENT_KEY) or {}
    names = dict.fromkeys((*expected, *agreement))
    return {name: _expectation(expected.get(name) or {}, agreement.get(name)) for name in names}


def _expectation(known: Mapping[str, Any], agreement: float | None) -> Expectation:
    helps = known.get("helps") or {}
    return Expectation(
        dice=known.get("dice"),
        dice_low=known.get("dice_low"),
        dice_high=known.get("dice_high"),
        volume_error_ml=known.get("volume_error") if known.get("unit") == _ML else None,
        disagreement=None if agreement is None else round(1 - agreement, 4),
        review=known.get("look"),
        would_help=helps.get("sequence"),
        would_help_dice=helps.get("dice"),
    )
