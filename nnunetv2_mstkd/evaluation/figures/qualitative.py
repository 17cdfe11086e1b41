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

from nnunetv2_mstkd.datasets.regions import region_colors, region_mask
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.figures.choice import (
    background_of,
    evaluation_of,
    images_of,
    shown_cases,
    shown_subsets,
)
from nnunetv2_mstkd.evaluation.figures.data import chosen_runs
from nnunetv2_mstkd.evaluation.figures.overlay import best_slice, blended, grey, overlay, window
from nnunetv2_mstkd.evaluation.figures.saved import DrawnFigure
from nnunetv2_mstkd.evaluation.figures.style import (
    LINE,
    SMALL,
    WIDTH,
    add_axes,
    new_figure,
    short_names,
    text_width,
    wrapped,
)
from nnunetv2_mstkd.evaluation.figures.volumes import (
    OrientedVolume,
    UnreadableError,
    read_prediction,
    read_reference,
    read_volume,
)

logger = logging.getLogger(__name__)

_MOST_RUNS = 6
_LEFT, _GAP, _LEGEND, _LARGEST = 15.0, 0.8, 8.0, 36.0  # mm
_LEAST_NAME, _HANDLE = 21.0, 14.0  # mm of a line of a run's name; of a patch in the legend with its room


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
    """Draw runs as rows, subsets as columns, regions in colours; None where files are gone or do not fit."""
    names, left_out = chosen_runs(comparison, _MOST_RUNS)
    runs = [run for run in comparison.runs if run.name in names]
    chosen = shown_subsets(comparison)
    subsets = chosen.names
    cases = shown_cases(comparison, runs, subsets)
    for case in cases:
        try:
            slices = _read(comparison, runs, subsets, case)
            break
        except UnreadableError as error:
            logger.warning("case %s is not shown: %s", case, error)
    else:
        logger.warning("no picture of a case: %s", _reason(len(cases)))
        return None
    several = any(len(run.evaluations) > 1 for run in runs)
    caption = (
        f"Case {case}: of the n = {len(cases)} cases with images and predictions on disk, the one whose mean"
        f" Dice of {comparison.reference} over subsets and regions is (nearest to) the median. Columns:"
        f" {chosen.rule}; the image is of a sequence that is available there. The slice is the one with the"
        " largest reference area, cropped around it. Regions that contain others are painted first, so that"
        " the inner ones cover them. Numbers: Dice (%) of the whole case, mean over regions"
        f" (policy '{comparison.policy}')."
        + (" A run of several seeds shows its first." if several else "")
        + left_out
    )
    figure = _draw(comparison, runs, case, slices)
    return DrawnFigure("qualitative", f"Segmentations of case {case}", caption, figure)


def _reason(on_disk: int) -> str:
    """Say why no case could be shown; of each that is on disk it was said already."""
    if not on_disk:
        return "no case has its images, reference and every prediction to be shown on disk"
    return "the one case on disk cannot be shown" if on_disk == 1 else f"none of {on_disk} cases can be shown"


def _read(comparison: Comparison, runs: Sequence[ComparedRun], subsets: Sequence[str], case: str) -> _Slices:
    """Read the case and cut the window out of it.

    Raises:
        UnreadableError: a file cannot be read, or is on another grid than the reference.
    """
    files = images_of(comparison, case)
    shown = [str(background_of(subset, files)) for subset in subsets]
    reference = read_reference(evaluation_of(runs[0], case), case)
    z = best_slice(reference.array, comparison.regions)

    def cut(volume: OrientedVolume) -> np.ndarray:
        if volume.array.shape != reference.array.shape:
            raise UnreadableError(f"a file of case {case} has another shape than the reference")
        return volume.array[z]

    images = {modality: cut(read_volume(files[modality])) for modality in dict.fromkeys(shown)}
    predictions = {
        (run.name, subset): cut(read_prediction(evaluation_of(run, case), case, subset))
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
    short = dict(zip(comparison.modalities, short_names(comparison.modalities, 12), strict=True))
    shown = list(zip(slices.subsets, slices.shown, strict=True))
    heads = [_heading(text, m, short, cell) for text, m in [("reference", slices.shown[0]), *shown]]
    top = LINE * max(head.count("\n") + 1 for head in heads) + 2
    regions = {name: wrapped(name, WIDTH - _HANDLE, 1) for name in comparison.regions}
    per_row = max(1, int(WIDTH / (_HANDLE + max(map(text_width, regions.values())))))
    legend = _LEGEND + LINE * (-(-len(regions) // per_row) - 1)
    figure = new_figure(top + len(runs) * (cell + _GAP) + legend)
    colors = region_colors(list(comparison.regions))

    def show(row: int, column: int, modality: str, labels: np.ndarray | None) -> Axes:
        axes = add_axes(figure, left + column * (cell + _GAP), top + row * (cell + _GAP), cell, cell)
        image, regions = slices.backgrounds[modality], comparison.regions if labels is not None else {}
        painted = overlay(image, image if labels is None else labels, regions, colors)
        axes.imshow(painted, aspect=slices.aspect, interpolation="nearest")
        axes.set_axis_off()
        if row == 0:
            axes.set_title(heads[column], fontsize=SMALL, pad=2, linespacing=1.05)
        return axes

    show(0, 0, slices.shown[0], slices.reference)
    if len(runs) > 1:
        _note(show(1, 0, slices.shown[0], None), "image alone")
    for row, run in enumerate(runs):
        dice = _case_dice(run, case)
        for column, (subset, modality) in enumerate(shown, 1):
            axes = show(row, column, modality, slices.predictions[run.name, subset])
            if not np.isnan(dice.get(subset, np.nan)):
                _note(axes, f"{dice[subset]:.1f}")
        y = 1 - (top + row * (cell + _GAP) + cell / 2) / (figure.get_figheight() * 25.4)
        name = wrapped(run.name, max(cell, _LEAST_NAME), 3)
        figure.text((left - 1) / WIDTH, y, name, rotation=90, ha="right", va="center", fontsize=SMALL)
    _add_regions(figure, colors, slices, comparison.regions, regions, per_row)
    return figure


def _add_regions(
    figure: Figure,
    colors: Mapping[str, str],
    slices: _Slices,
    regions: Mapping[str, tuple[int, ...]],
    titles: Mapping[str, str],
    per_row: int,
) -> None:
    """Add the regions' legend at the bottom, in the colours that the reference shows over its median grey."""
    mask = _any_region(slices.reference, regions)
    below = slices.backgrounds[slices.shown[0]][mask]
    grey_level = float(np.median(below)) if mask.any() else 0.5
    handles = [
        Patch(facecolor=tuple(blended(colors[name], grey_level)), label=titles[name]) for name in regions
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(len(handles), per_row),
        frameon=False,
        borderaxespad=0.2,
        labelspacing=0.2,
    )


def _heading(text: str, modality: str, names: Mapping[str, str], width: float) -> str:
    members = " + ".join(names.get(part, part) for part in text.split("+"))
    return f"{wrapped(members, width, 2)}\n{wrapped(f'image: {names[modality]}', width, 1)}"


def _case_dice(run: ComparedRun, case: str) -> Mapping[str, float]:
    """Map subset to Dice in percent, mean over regions, of the evaluation whose segmentations are shown."""
    table = evaluation_of(run, case).metrics
    return (100 * table[table["case"] == case].groupby("subset")["dice"].mean()).to_dict()


def _note(axes: Axes, words: str) -> None:
    where = axes.transAxes
    text = axes.text(0.03, 0.03, words, color="white", fontsize=SMALL, va="bottom", transform=where)
    text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])
