"""How metrics and averages are named and scaled wherever they are printed."""

from __future__ import annotations

from dataclasses import dataclass

AVERAGE = "Avg."  # over all subsets, as the published tables print it
INCOMPLETE = "incomplete"  # over all subsets but the whole set


@dataclass(frozen=True)
class Metric:
    """How a metric is printed and read.

    Attributes:
        title: for people.
        unit: of the printed number.
        scale: printed number per stored number.
        sign: +1 where more is better, -1 where less is.
    """

    title: str
    unit: str
    scale: float
    sign: int


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "%", 100.0, 1),
    "hd95": Metric("HD95", "mm", 1.0, -1),
    "lesion_dice": Metric("Lesion-wise Dice", "%", 100.0, 1),
    "lesion_hd95": Metric("Lesion-wise HD95", "mm", 1.0, -1),
}
