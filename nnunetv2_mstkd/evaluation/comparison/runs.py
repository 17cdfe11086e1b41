"""What is compared, and the result of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from nnunetv2_mstkd.evaluation.results import Evaluation

AVERAGE = "Avg."  # mean over all subsets
INCOMPLETE = "incomplete"  # mean over all subsets but the whole set


@dataclass(frozen=True)
class ComparedRun:
    """One method.

    Attributes:
        name: as tables and figures print it.
        evaluations: one; or several folds or seeds of the same method.
    """

    name: str
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs over the same cases, and what the statistics say about them.

    Dice is a fraction, HD95 is in mm. ``metric`` is ``dice`` or ``hd95``, and ``lesion_dice`` or
    ``lesion_hd95`` where lesion-wise scores are there.

    Attributes:
        runs: in the order given.
        reference: name of the run that differences are taken from.
        policy: for empty masks, that of every run.
        modalities: in channel order.
        subsets: in table order, as ``format_subset`` prints them.
        regions: name → label values, in the order of dataset.json.
        scores: run, patient, case, subset, region, dice, hd95; seeds averaged per case, folds
            concatenated.
        means: run, region, subset, metric, mean, std, low, high, n. ``subset`` also takes ``Avg.`` and
            ``incomplete``; std is over the n patients, low and high are a bootstrap 95 % interval over them.
        differences: run, region, subset, metric, difference, low, high, p, p_holm, wins, ties, losses,
            patients. Run minus reference; a win is better than the reference.
        ablation: rows in the published layout, or None.
        published: rows of the published tables, or None.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """

    runs: tuple[ComparedRun, ...]
    reference: str
    policy: str
    modalities: tuple[str, ...]
    subsets: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    scores: pd.DataFrame
    means: pd.DataFrame
    differences: pd.DataFrame
    ablation: pd.DataFrame | None
    published: pd.DataFrame | None
    seed: int
    resamples: int
