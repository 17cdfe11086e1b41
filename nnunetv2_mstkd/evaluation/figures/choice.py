"""Which case and which subsets the qualitative figure shows: by rules, not by taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.record.record import Evaluation

MOST_SUBSETS = 5
# Where oedema and core are seen best, first.
BACKGROUNDS = ("t2f", "t1c", "t2w", "t1n")

SUBSET_RULE = (
    "the whole set, then for each smaller number of sequences (evenly spread, where there are many) the"
    " subset with the lowest mean Dice of the reference run, and last the best of one sequence"
)


def shown_subsets(comparison: Comparison) -> list[str]:
    """Choose at most five subsets, as ``SUBSET_RULE`` says."""
    rows = comparison.scores[comparison.scores["run"] == comparison.reference]
    dice = rows.groupby("subset")["dice"].mean()
    by_size: dict[int, list[str]] = {}
    for subset in comparison.subsets:
        by_size.setdefault(len(subset.split("+")), []).append(subset)
    numbers = sorted(by_size, reverse=True)
    if len(numbers) > MOST_SUBSETS:
        picks = np.linspace(0, len(numbers) - 1, MOST_SUBSETS).round().astype(int)
        numbers = [numbers[pick] for pick in picks]
    chosen = [min(by_size[number], key=lambda s: dice.get(s, np.inf)) for number in numbers]
    best = max(by_size[numbers[-1]], key=lambda s: dice.get(s, -np.inf))
    if len(chosen) < MOST_SUBSETS and best not in chosen:
        chosen.append(best)
    return chosen


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
