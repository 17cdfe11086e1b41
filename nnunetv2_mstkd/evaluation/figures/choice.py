"""Which case and which subsets the qualitative figure shows: by rules, not by taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.record.record import Evaluation

MOST_SUBSETS = 5
# Where oedema and core are seen best, first.
BACKGROUNDS = ("t2f", "t1c", "t2w", "t1n")


@dataclass(frozen=True)
class ShownSubsets:
    """The subsets of a figure.

    Attributes:
        names: in the order of the columns.
        rule: how they were chosen, for the caption.
    """

    names: tuple[str, ...]
    rule: str


def shown_subsets(comparison: Comparison) -> ShownSubsets:
    """Choose at most five subsets: the worst of each size, the largest first, and last the best smallest one.

    Of many sizes some are chosen, evenly spread.
    """
    rows = comparison.scores[comparison.scores["run"] == comparison.reference]
    dice = rows.groupby("subset")["dice"].mean().dropna()
    by_size: dict[int, list[str]] = {}
    for subset in comparison.subsets:
        by_size.setdefault(len(subset.split("+")), []).append(subset)
    smallest = by_size[min(by_size)]
    best = max(smallest, key=lambda s: dice.get(s, -np.inf))
    worst = {size: min(found, key=lambda s: dice.get(s, np.inf)) for size, found in by_size.items()}
    added = best != worst[min(by_size)]
    numbers = _evenly(sorted(by_size, reverse=True), MOST_SUBSETS - added)
    names = (*(worst[number] for number in numbers), *([best] if added else []))
    return ShownSubsets(names, _rule(numbers, len(comparison.modalities), len(by_size), added))


def _evenly(numbers: list[int], most: int) -> list[int]:
    if len(numbers) <= most:
        return numbers
    picks = np.linspace(0, len(numbers) - 1, most).round().astype(int)
    return [numbers[pick] for pick in picks]


def _rule(numbers: Sequence[int], whole: int, sizes: int, added: bool) -> str:
    """Say how the subsets were chosen.

    Args:
        numbers: sizes that were chosen, the largest first.
        whole: size of the whole set.
        sizes: how many sizes were evaluated.
        added: the best subset of the smallest size stands last.
    """
    smaller = [number for number in numbers if number < whole]
    parts = ["the whole set"] if len(smaller) < len(numbers) else []
    if smaller:
        listed = " and ".join(filter(None, (", ".join(map(str, smaller[:-1])), str(smaller[-1]))))
        spread = f" (spread evenly over {sizes} evaluated numbers)" if sizes > len(numbers) else ""
        each = "each the" if len(smaller) > 1 else "the"
        parts.append(
            f"of {listed} sequence{'s' if smaller[0] > 1 else ''}{spread} {each} subset with the lowest mean"
            " Dice of the reference run"
        )
    rule = ", then ".join(parts)
    if added:
        rule += f", and last the best of {smaller[-1]} sequence{'s' if smaller[-1] > 1 else ''}"
    return rule


def background_of(subset: str, images: Mapping[str, str]) -> str | None:
    """Choose the modality of a subset to show: FLAIR, T1c, T2, T1 in this order, else the first; or None."""
    present = [modality for modality in subset.split("+") if modality in images]
    return next((m for m in BACKGROUNDS if m in present), present[0] if present else None)


def evaluation_of(run: ComparedRun, case: str) -> Evaluation:
    """Return the first evaluation of a run that has the case (the first seed)."""
    return next(evaluation for evaluation in run.evaluations if case in evaluation.record.cases)


def images_of(comparison: Comparison, case: str) -> Mapping[str, str]:
    """Map modality to file, by the first run that knows (evaluations of finished segmentations do not)."""
    known = (evaluation_of(run, case).record.cases[case].images for run in comparison.runs)
    return next((images for images in known if images), {})


def shown_cases(comparison: Comparison, runs: Sequence[ComparedRun], subsets: Sequence[str]) -> list[str]:
    """List cases whose images, reference and predictions are on disk, nearest to the median case first.

    The median is that of the mean Dice of the reference run (with an even number the lower of two).
    """
    rows = comparison.scores[comparison.scores["run"] == comparison.reference]
    dice = rows.groupby("case")["dice"].mean().dropna()
    complete = [case for case in dice.index if _complete(comparison, runs, subsets, case)]
    ranked = sorted(complete, key=lambda case: (dice[case], case))
    middle = (len(ranked) - 1) // 2
    return sorted(ranked, key=lambda case: abs(ranked.index(case) - middle))


def _complete(comparison: Comparison, runs: Sequence[ComparedRun], subsets: Sequence[str], case: str) -> bool:
    images = images_of(comparison, case)
    backgrounds = [background_of(subset, images) for subset in subsets]
    if None in backgrounds:
        return False
    evaluations = [evaluation_of(run, case) for run in runs]
    files = [Path(images[str(modality)]) for modality in backgrounds]
    files.append(Path(evaluations[0].record.cases[case].reference))
    files += [evaluation.prediction(case, subset) for evaluation in evaluations for subset in subsets]
    return all(path.is_file() for path in files)
