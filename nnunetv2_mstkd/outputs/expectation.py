"""What a segmentation is worth, as far as anything is known of it: the place where such knowledge comes in.

Statistics, their table and the page have columns for it, which stay empty where :func:`expectations_of` knows
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nnunetv2_mstkd.inference.measuring import RegionStatistics


@dataclass(frozen=True)
class Expectation:
    """What to expect of one region of one case; None where nothing is known.

    Attributes:
        dice: median, 0 to 1.
        dice_low, dice_high: the interval around it.
        volume_error_ml: expected absolute error of the volume.
        disagreement: between folds, 0 (none) to 1.
        review: whether a reader should look.
        would_help: the absent sequence that would help most.
    """

    dice: float | None = None
    dice_low: float | None = None
    dice_high: float | None = None
    volume_error_ml: float | None = None
    disagreement: float | None = None
    review: bool | None = None
    would_help: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``statistics.json`` holds."""
        return asdict(self)


class Expectations(Protocol):
    """Says what to expect of a case's regions; regions of which nothing is known are left out."""

    def __call__(
        self, case: str, used: Sequence[str], regions: Mapping[str, RegionStatistics]
    ) -> Mapping[str, Expectation]:
        """Look a case up.

        Args:
            case: its name.
            used: the modalities that the segmentation is based on.
            regions: what was measured of it.
        """
        ...


def expectations_of(model: Path | None) -> Expectations | None:
    """Return what a model folder knows of its own quality; None where it knows nothing."""
    return None
