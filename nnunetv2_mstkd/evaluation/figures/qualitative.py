"""One case: its reference and what every run predicts from less and less."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.figures.choice import (
    SUBSET_RULE,
    background_of,
    evaluation_of,
    images_of,
    shown_cases,
    shown_subsets,
)
from nnunetv2_mstkd.evaluation.figures.data import chosen_runs
from nnunetv2_mstkd.evaluation.figures.overlay import best_slice, grey, overlay, window
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure
from nnunetv2_mstkd.evaluation.figures.style import (
    SMALL,
    WIDTH,
    add_axes,
    new_figure,
    region_colors,
    short_names,
    wrapped,
)
from nnunetv2_mstkd.evaluation.figures.volumes import UnreadableError, read_reference, read_volume
from nnunetv2_mstkd.evaluation.regions import region_mask

logger = logging.getLogger(__name__)

_MOST_RUNS = 6
_LEFT, _TOP, _GAP, _LEGEND, _LARGEST = 11.0, 11.0, 0.8, 7.0, 36.0  # mm
_LEGEND_ROW = 3.4  # mm
_LETTER = 1.3  # mm, with room to spare


@dataclass(frozen=True)
class _Slices:
    """What is painted, all in one window of one slice.

    Attributes:
        subsets: one column each.
        backgrounds: modality → (Y, X), 0 to 1.
        shown: per subset, the modality under it.
        reference: (Y, X) label values.
        predictions: (run, subset) → (Y, X) label values.
        aspect: height of a pixel in widths.
    """

    subsets: Sequence[str]
    backgrounds: Mapping[str, np.ndarray]
    shown: Sequence[str]
    reference: np.ndarray
    predictions: Mapping[tuple[str, str], np.ndarray]
    aspect: float


def draw_qualitative(comparison: Comparison) -> DrawnFigure | None:
    """Runs as rows, subsets as columns, regions in colours; None where files are gone or do not fit."""
    names, left_out = chosen_runs(comparison, _MOST_RUNS)
    runs = [run for run in comparison.runs if run.name in names]
    subsets = shown_subsets(comparison)
    cases = shown_cases(comparison, runs, subsets)
    for case in cases:
        try:
            slices = _read(comparison, runs, subsets, case)
            break
        except UnreadableError as error:
            logger.warning("case %s is not shown: %s", case, error)
    else:
        logger.warning("no picture of a case: images, references or predictions are not on disk")
        return None
    several = any(len(run.evaluations) > 1 for run in runs)
    caption = (
        f"Case {case}: of the n = {len(cases)} cases with images and predictions on disk, the one whose mean"
        f" Dice of {comparison.reference} over subsets and regions is (nearest to) the median. Columns:"
        f" {SUBSET_RULE}; the image is of a sequence that is available there. The slice is the one with the"
        " largest reference area, cropped around it. Regions that contain others are painted first, so that"
        " the inner ones cover them. Numbers: Dice (%) of the whole case, mean over regions"
        f" (policy '{comparison.policy}')."
        + (" A run of several seeds shows its first." if several else "")
        + left_out
    )
    figure = _draw(comparison, runs, case, slices)
    return DrawnFigure("qualitative", f"Segmentations of case {case}", caption, figure)


def _read(comparison: Comparison, runs: Sequence[ComparedRun], subsets: Sequence[str], case: str) -> _Slices:
    """Read the case and cut the window out of it.

    Raises:
        UnreadableError: a file cannot be read, or is on another grid than the reference.
    """
    files = images_of(comparison, case)
    shown = [str(background_of(subset, files)) for subset in subsets]
    reference = read_reference(evaluation_of(runs[0], case), case)
    z = best_slice(reference.array, comparison.regions)

    def cut(path: object) -> np.ndarray:
        volume = read_volume(str(path))
        if volume.array.shape != reference.array.shape:
            raise UnreadableError(f"{path} has another shape than the reference")
        return volume.array[z]

    images = {modality: cut(files[modality]) for modality in dict.fromkeys(shown)}
    predictions = {
        (run.name, subset): cut(evaluation_of(run, case).prediction(case, subset))
        for run in runs
        for subset in subsets
    }
    seen = [reference.array[z], *predictions.values()]
    target = np.any([_any_region(labels, comparison.regions) for labels in seen], axis=0)
    spacing = reference.spacing[1:]
    part = window(target, np.any([image != 0 for image in images.values()], axis=0), spacing)
    return _Slices(
        subsets=subsets,
        backgrounds={modality: grey(image)[part] for modality, image in images.items()},
        shown=shown,
        reference=reference.array[z][part],
        predictions={key: labels[part] for key, labels in predictions.items()},
        aspect=spacing[0] / spacing[1],
    )


def _any_region(labels: np.ndarray, regions: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    return region_mask(labels, tuple({value for values in regions.values() for value in values}))


def _draw(comparison: Comparison, runs: Sequence[ComparedRun], case: str, slices: _Slices) -> Figure:
    columns = len(slices.subsets) + 1
    cell = min((WIDTH - _LEFT - 1) / columns - _GAP, _LARGEST)
    left = _LEFT + (WIDTH - _LEFT - 1 - columns * (cell + _GAP)) / 2
    per_row = max(1, int(WIDTH / (12 + _LETTER * max(map(len, comparison.regions)))))
    legend = _LEGEND + _LEGEND_ROW * (-(-len(comparison.regions) // per_row) - 1)
    figure = new_figure(_TOP + len(runs) * (cell + _GAP) + legend)
    colors = region_colors(list(comparison.regions))
    short = dict(zip(comparison.modalities, short_names(comparison.modalities, 12), strict=True))

    def show(row: int, column: int, modality: str, labels: np.ndarray | None) -> Axes:
        axes = add_axes(figure, left + column * (cell + _GAP), _TOP + row * (cell + _GAP), cell, cell)
        image, regions = slices.backgrounds[modality], comparison.regions if labels is not None else {}
        painted = overlay(image, image if labels is None else labels, regions, colors)
        axes.imshow(painted, aspect=slices.aspect, interpolation="nearest")
        axes.set_axis_off()
        return axes

    first = slices.shown[0]
    show(0, 0, first, slices.reference).set_title(_heading("reference", first, short), fontsize=SMALL, pad=2)
    if len(runs) > 1:
        alone = show(1, 0, first, None)
        alone.text(
            0.5, -0.04, "image alone", ha="center", va="top", fontsize=SMALL, transform=alone.transAxes
        )
    for row, run in enumerate(runs):
        dice = _case_dice(run, case)
        for column, (subset, modality) in enumerate(zip(slices.subsets, slices.shown, strict=True), 1):
            axes = show(row, column, modality, slices.predictions[run.name, subset])
            if row == 0:
                axes.set_title(_heading(subset, modality, short), fontsize=SMALL, pad=2)
            _note(axes, dice.get(subset, np.nan))
        y = 1 - (_TOP + row * (cell + _GAP) + cell / 2) / (figure.get_figheight() * 25.4)
        name = wrapped(run.name, max(int(cell / _LETTER), 10), 3)
        figure.text((left - 1) / WIDTH, y, name, rotation=90, ha="right", va="center", fontsize=SMALL)
    handles = [Patch(facecolor=colors[name], label=name) for name in comparison.regions]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), per_row), frameon=False)
    return figure


def _heading(text: str, modality: str, names: Mapping[str, str]) -> str:
    members = " + ".join(names.get(part, part) for part in text.split("+"))
    return f"{wrapped(members, 22, 2)}\n(image: {names[modality]})"


def _case_dice(run: ComparedRun, case: str) -> Mapping[str, float]:
    """Subset → Dice in percent, mean over regions, of the evaluation whose segmentations are shown."""
    table = evaluation_of(run, case).metrics
    return (100 * table[table["case"] == case].groupby("subset")["dice"].mean()).to_dict()


def _note(axes: Axes, dice: float) -> None:
    if not np.isnan(dice):
        text = axes.text(
            0.03, 0.03, f"{dice:.1f}", color="white", fontsize=6.5, va="bottom", transform=axes.transAxes
        )
        text.set_path_effects([withStroke(linewidth=1.2, foreground="black")])
