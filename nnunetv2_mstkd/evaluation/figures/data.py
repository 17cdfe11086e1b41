"""What several figures need of a comparison: patients' Dice, columns, chosen runs, parts of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap, interval, known_mean
from nnunetv2_mstkd.evaluation.figures.style import RunStyle, run_style


def patients_dice(comparison: Comparison, runs: Sequence[str]) -> np.ndarray:
    """Return Dice in percent (runs, regions, subsets, patients), cases averaged; nan where unknown."""
    patients = sorted(comparison.scores["patient"].unique())
    keys = ["run", "region", "subset", "patient"]
    means = comparison.scores.groupby(keys, sort=False, observed=True)["dice"].mean()
    axes = (list(runs), list(comparison.regions), list(comparison.subsets), patients)
    index = pd.MultiIndex.from_product(axes, names=keys)
    return 100 * means.reindex(index).to_numpy(dtype=float).reshape([len(axis) for axis in axes])


def sizes(comparison: Comparison) -> list[int]:
    """Return the number of modalities of each subset."""
    return [len(subset.split("+")) for subset in comparison.subsets]


@dataclass(frozen=True)
class Columns:
    """What the columns of a figure stand for.

    Attributes:
        members: per column, positions in ``Comparison.subsets``.
        modalities: per column, the modalities that are there; None where a column is a number of them.
        labels: per column; subsets as printed, or numbers.
    """

    members: tuple[tuple[int, ...], ...]
    modalities: tuple[frozenset[str], ...] | None
    labels: tuple[str, ...]

    def mean(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Average each column's members, nan left out: subsets on ``axis`` → columns there."""
        parts = [known_mean(np.take(values, part, axis=axis), axis=axis) for part in self.members]
        return np.stack(parts, axis=axis)

    @property
    def what(self) -> str:
        """For captions."""
        if self.modalities is not None:
            return "each subset of sequences (filled circles: available)"
        return "each number of available sequences (the mean over its subsets; there are too many to show)"


def columns_of(comparison: Comparison, most: int) -> Columns:
    """Make a column per subset; where there are more than ``most``, one per number of modalities."""
    subsets = comparison.subsets
    if len(subsets) <= most:
        modalities = tuple(frozenset(subset.split("+")) for subset in subsets)
        return Columns(tuple((i,) for i in range(len(subsets))), modalities, subsets)
    return columns_by_count(comparison)


def columns_by_count(comparison: Comparison) -> Columns:
    """Make a column per number of modalities."""
    counts = sizes(comparison)
    present = sorted(set(counts))
    members = tuple(tuple(i for i, count in enumerate(counts) if count == number) for number in present)
    return Columns(members, None, tuple(map(str, present)))


def chosen_runs(comparison: Comparison, most: int) -> tuple[list[str], str]:
    """Choose the reference and the first other runs, in the order given; say if any is left out."""
    names = [run.name for run in comparison.runs]
    if len(names) <= most:
        return names, ""
    others = [name for name in names if name != comparison.reference][: most - 1]
    chosen = [name for name in names if name in others or name == comparison.reference]
    return chosen, f" Of {len(names)} runs, the reference and the first {most - 1} others are shown."


def styles_of(comparison: Comparison, runs: Sequence[str]) -> list[RunStyle]:
    """Choose how each run is drawn: alike in every figure, however many of the runs it shows.

    The reference comes first, as in the choice of :func:`chosen_runs`, so that no two runs of a figure look
    alike.
    """
    others = [run.name for run in comparison.runs if run.name != comparison.reference]
    order = [comparison.reference, *others]
    return [run_style(order.index(name)) for name in runs]


def mean_and_interval(
    values: np.ndarray, comparison: Comparison
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average over patients (..., patients), with both ends of the bootstrap interval, each (...).

    Ends are nan for fewer than two patients.
    """
    flat = values.reshape(-1, values.shape[-1])
    bootstrap = Bootstrap(flat.shape[1], seed=comparison.seed, resamples=comparison.resamples)
    low, high = interval(bootstrap.means(flat.T))
    enough = (~np.isnan(flat)).sum(axis=1) > 1
    low, high = (np.where(enough, end, np.nan).reshape(values.shape[:-1]) for end in (low, high))
    return known_mean(values, axis=-1), low, high


def patients_text(comparison: Comparison) -> str:
    """Say of how many patients a figure is: ``n = 6 patients, 8 cases averaged per patient``."""
    patients, cases = (comparison.scores[column].nunique() for column in ("patient", "case"))
    text = f"n = {patients} patient" + ("s" if patients != 1 else "")
    return text if cases == patients else f"{text}, {cases} cases averaged per patient"


def policy_text(comparison: Comparison) -> str:
    """Say how empty masks are scored, for captions."""
    return f"Empty masks are scored by the policy '{comparison.policy}'."


def interval_text(comparison: Comparison) -> str:
    """Say what the bars are, for captions."""
    if comparison.scores["patient"].nunique() < 2:
        return "There are no intervals for one patient."
    drawn = f"{comparison.resamples} resamples, seed {comparison.seed}"
    return f"Bars are 95 % bootstrap intervals over patients ({drawn})."
