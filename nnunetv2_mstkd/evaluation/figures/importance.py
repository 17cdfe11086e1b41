"""Importance of each modality: how much Dice falls when it is taken away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.comparison.statistics import known_mean
from nnunetv2_mstkd.evaluation.figures.data import (
    chosen_runs,
    interval_text,
    mean_and_interval,
    patients_dice,
    patients_text,
    policy_text,
    styles_of,
)
from nnunetv2_mstkd.evaluation.figures.panels import draw_intervals, make_room_beside, region_panels
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure
from nnunetv2_mstkd.evaluation.figures.style import short_names, text_width

_MOST_RUNS = 8
_MOST_NAMES = 34.0  # mm of the names under a panel, before they are turned
_TURN = 45  # degrees


def removal_pairs(subsets: Sequence[str], modality: str) -> list[tuple[int, int]]:
    """Find every subset that has the modality and the same subset without it, both evaluated."""
    positions = {frozenset(subset.split("+")): position for position, subset in enumerate(subsets)}
    return [
        (position, positions[present - {modality}])
        for present, position in positions.items()
        if modality in present and present - {modality} in positions
    ]


def drops(dice: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Average the fall of Dice over the pairs (runs, regions, subsets, patients): (runs, regions, patients).

    A pair with a nan is left out; nan where none is left.
    """
    with_it, without = (list(positions) for positions in zip(*pairs, strict=True))
    return known_mean(dice[:, :, with_it] - dice[:, :, without], axis=2)


def draw_importance(comparison: Comparison) -> DrawnFigure | None:
    """Draw a panel per region, a group of points per modality; None where no two subsets make a pair."""
    pairs = {modality: removal_pairs(comparison.subsets, modality) for modality in comparison.modalities}
    pairs = {modality: found for modality, found in pairs.items() if found}
    if not pairs:
        return None
    runs, left_out = chosen_runs(comparison, _MOST_RUNS)
    dice = patients_dice(comparison, runs)
    values = np.stack([drops(dice, found) for found in pairs.values()], axis=2)
    means, low, high = mean_and_interval(values, comparison)
    x, names = np.arange(len(pairs)), short_names(list(pairs), 12)
    turned = sum(map(text_width, names)) > _MOST_NAMES
    more_below = max(map(text_width, names)) * np.sin(np.deg2rad(_TURN)) if turned else 0.0
    styles = styles_of(comparison, runs)
    figure, panels = region_panels(comparison, runs, more_below=more_below)
    for region, axes in enumerate(panels):
        axes.axhline(0, color="black", linewidth=0.6)
        draw_intervals(axes, x, means[:, region], low[:, region], high[:, region], styles, line=False)
        axes.set_xticks(x, names, rotation=_TURN if turned else 0, ha="right" if turned else "center")
        # Under turned names a panel may be narrower than these words.
        axes.set_xlabel("sequence taken away", loc="right" if turned else "center")
        axes.set_ylabel("drop of Dice (points)")
    make_room_beside(panels)
    caption = (
        "Importance of each sequence: how many points of Dice (%) are lost on average when it is taken away"
        f" from a subset that has it, over all pairs of evaluated subsets ({_counts(pairs)}); above 0 the"
        f" sequence helps. {patients_text(comparison)}. {interval_text(comparison)}"
        f" {policy_text(comparison)}{left_out}"
    )
    return DrawnFigure("importance", "Importance of each sequence", caption, figure)


def _counts(pairs: dict[str, list[tuple[int, int]]]) -> str:
    counts = {modality: len(found) for modality, found in pairs.items()}
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values()))} per sequence"
    return ", ".join(f"{modality}: {count}" for modality, count in counts.items())
