"""What is compared, and the result of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.facts import CommonFacts
from nnunetv2_mstkd.evaluation.metrics.presentation import METRICS
from nnunetv2_mstkd.evaluation.record.record import Evaluation


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

    Dice is a fraction, HD95 is in mm; ``metric`` is a key of :data:`METRICS`, the lesion-wise ones only
    where they were scored. ``subset`` is one of ``subsets``, :data:`AVERAGE` or :data:`INCOMPLETE`.

    Attributes:
        runs: in the order given.
        reference: name of the run that differences are taken from.
        facts: what can be said of all evaluations together.
        policy: for empty masks, that of every run.
        modalities: in channel order.
        subsets: in table order, as ``format_subset`` prints them.
        regions: name → label values, in the order of dataset.json.
        scores: run, patient, case, subset, region, and one column per metric; seeds averaged per case,
            folds concatenated.
        means: run, region, subset, metric, mean, std, low, high, n, seeds, seed_std. std is over the n
            patients; low and high are the bootstrap 95 % interval of the mean over them. seeds is the number
            of evaluations per case, seed_std the spread of the mean between them (nan for one).
        differences: run, region, subset, metric, difference, low, high, p, p_holm, wins, ties, losses,
            patients. Run minus reference; a win is better than the reference.
        ablation: :func:`ablation.ablation_table`, or None.
        published: :func:`published.read_published`, or None.
        ranks: :func:`ranks.rank_table`, or None.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """

    runs: tuple[ComparedRun, ...]
    reference: str
    facts: CommonFacts
    policy: str
    modalities: tuple[str, ...]
    subsets: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    scores: pd.DataFrame
    means: pd.DataFrame
    differences: pd.DataFrame
    ablation: pd.DataFrame | None
    published: pd.DataFrame | None
    ranks: pd.DataFrame | None
    seed: int
    resamples: int

    @property
    def without(self) -> tuple[str, ...]:
        """Cases that were left out of every run."""
        return tuple(sorted({name for run in self.runs for e in run.evaluations for name in e.without}))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The keys of :data:`METRICS` that were scored."""
        return tuple(metric for metric in METRICS if metric in self.scores)
