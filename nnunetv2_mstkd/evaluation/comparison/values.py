"""From the tables of single evaluations to one array of scores per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.agreement import case_groups, patients_of, scored_subsets
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun
from nnunetv2_mstkd.evaluation.comparison.statistics import group_means, known_mean
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE, METRICS
from nnunetv2_mstkd.evaluation.record.record import Evaluation

_KEYS = ["case", "subset", "region"]
# The same reference gives the same volume; a table may have been written with fewer digits.
_VOLUME_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Layout:
    """The axes of an array of scores: cases, subsets, regions, metrics.

    Attributes:
        patients: case → patient, in the order of the first axis.
        subsets: second axis.
        regions: third axis.
        metrics: fourth axis, keys of ``METRICS``.
        modalities: of the data set.
        scored: case → the subsets that it is scored under: not those with a modality that it lacks.
    """

    patients: Mapping[str, str]
    subsets: tuple[str, ...]
    regions: tuple[str, ...]
    metrics: tuple[str, ...]
    modalities: tuple[str, ...]
    scored: Mapping[str, frozenset[str]]

    @cached_property
    def patient_names(self) -> list[str]:
        """Each patient once, sorted."""
        return sorted(set(self.patients.values()))

    @cached_property
    def incomplete(self) -> list[int]:
        """Positions of the subsets in which a modality is missing; none where there are no others.

        Their mean would be the average a second time, and count as a test of its own.
        """
        whole = "+".join(self.modalities)
        return (
            [n for n, subset in enumerate(self.subsets) if subset != whole] if whole in self.subsets else []
        )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What :meth:`with_summaries` makes of the subsets; no ``incomplete`` where that is all or none."""
        return (AVERAGE, *((INCOMPLETE,) if self.incomplete else ()), *self.subsets)

    def with_summaries(self, values: np.ndarray) -> np.ndarray:
        """Put the mean over all and over the incomplete subsets before the second axis, nan left out."""
        parts = [known_mean(values, axis=1)]
        if self.incomplete:
            parts.append(known_mean(values[:, self.incomplete], axis=1))
        return np.concatenate([np.stack(parts, axis=1), values], axis=1)

    def by_patient(self, values: np.ndarray) -> np.ndarray:
        """Average the cases of a patient, nan left out: (cases, ...) → (patients, ...)."""
        numbers = {patient: number for number, patient in enumerate(self.patient_names)}
        groups = np.array([numbers[patient] for patient in self.patients.values()])
        return group_means(values, groups, len(numbers))


def layout_of(runs: Sequence[ComparedRun]) -> Layout:
    """Return the axes of runs that agree.

    Raises:
        MSTKDError: a case is not scored under the same subsets everywhere.
    """
    record = runs[0].evaluations[0].record
    return Layout(
        patients=patients_of(runs[0]),
        subsets=record.subsets,
        regions=tuple(record.regions),
        metrics=tuple(m for m in METRICS if record.lesionwise is not None or not m.startswith("lesion_")),
        modalities=record.modalities,
        scored=scored_subsets(runs),
    )


def evaluation_values(evaluation: Evaluation, layout: Layout) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read the scores of one evaluation.

    Returns:
        Its cases, sorted; scores (cases, subsets, regions, metrics), nan where a case is not scored;
        volumes of the reference in mm³ (cases, regions).

    Raises:
        MSTKDError: rows are missing, foreign or twice, or a column does not fit the record.
    """
    cases, table = sorted(evaluation.record.cases), evaluation.metrics
    _check_columns(evaluation, table, layout.metrics)
    index = pd.MultiIndex.from_product([cases, layout.subsets, layout.regions], names=_KEYS)
    keyed = table.set_index(_KEYS)
    scored = np.array([subset in layout.scored[case] for case, subset, _ in index])
    _check_rows(evaluation, keyed.index, index, scored)
    keyed = keyed.reindex(index)
    keyed.loc[~scored, list(layout.metrics)] = np.nan
    shape = (len(cases), len(layout.subsets), len(layout.regions))
    values = keyed[list(layout.metrics)].to_numpy(dtype=float).reshape(*shape, len(layout.metrics))
    volumes = keyed["volume_reference"].to_numpy(dtype=float).reshape(shape)
    return cases, values, known_mean(volumes, axis=1)


def _check_columns(evaluation: Evaluation, table: pd.DataFrame, metrics: Sequence[str]) -> None:
    if table.empty:
        raise MSTKDError(
            f"the metrics in {evaluation.folder} have no rows: nothing was scored;"
            " run nnUNetv2_mstkd evaluate again, it says why its cases fail"
        )
    for column in (*metrics, "volume_reference"):
        if column not in table or not pd.api.types.is_numeric_dtype(table[column]):
            what = "is not numeric" if column in table else "is missing"
            raise MSTKDError(
                f"column {column} of the metrics in {evaluation.folder} {what};"
                " run nnUNetv2_mstkd evaluate again"
            )
        infinite = table[np.isinf(table[column])]
        if len(infinite):
            first = ", ".join(map(str, infinite[_KEYS].iloc[0]))
            raise MSTKDError(
                f"column {column} of the metrics in {evaluation.folder} is infinite in {len(infinite)} of"
                f" {len(table)} rows (first: {first}); run nnUNetv2_mstkd evaluate again"
            )
    policies = set(table["policy"]) - {evaluation.record.policy}
    if policies:
        raise MSTKDError(
            f"the metrics in {evaluation.folder} have rows of policy {sorted(map(str, policies))[0]},"
            f" its record says {evaluation.record.policy}; run nnUNetv2_mstkd evaluate again"
        )


def _check_rows(
    evaluation: Evaluation, found: pd.MultiIndex, expected: pd.MultiIndex, scored: np.ndarray
) -> None:
    for rows, problem in (
        (
            expected[scored].difference(found),
            "not there: the evaluation did not end, run it again or leave cases out of every run (--without)",
        ),
        (found.difference(expected), "foreign to its record: run nnUNetv2_mstkd evaluate again"),
        (found[found.duplicated()], "there twice: run nnUNetv2_mstkd evaluate again"),
    ):
        if len(rows):
            first = ", ".join(map(str, rows[0]))
            raise MSTKDError(
                f"the metrics in {evaluation.folder} have {len(rows)} of {len(expected)} rows that are"
                f" {problem} (first: {first})"
            )


@dataclass(frozen=True)
class RunValues:
    """A run's scores, folds concatenated and seeds averaged.

    Attributes:
        scores: (cases, subsets, regions, metrics), in the order of the layout.
        volumes: (cases, regions), of the references, in mm³.
        seeds: evaluations per case; the smallest number where it differs.
        seed_std: (columns, regions, metrics): spread between seeds of the mean over patients; nan for one.
    """

    scores: np.ndarray
    volumes: np.ndarray
    seeds: int
    seed_std: np.ndarray


def run_values(run: ComparedRun, layout: Layout) -> RunValues:
    """Read all evaluations of a run.

    Raises:
        MSTKDError: see :func:`evaluation_values`; or seeds were scored against different references.
    """
    names: list[str] = []
    parts, volumes, variances, counts = [], [], [], []
    for group in case_groups(run):
        read = [evaluation_values(evaluation, layout) for evaluation in group]
        cases = read[0][0]
        for evaluation, (_, _, other) in zip(group, read, strict=True):
            check_references(run.name, read[0][2], str(evaluation.folder), other, cases)
        names += cases
        stacked = np.stack([values for _, values, _ in read])
        parts.append(known_mean(stacked, axis=0))
        volumes.append(read[0][2])
        variances.append(_seed_variance(stacked, cases, layout) * _weight(cases, layout) ** 2)
        counts.append(len(group))
    order = np.argsort(names, kind="stable")
    # Folds are trained independently: the variance of their weighted mean is the weighted sum.
    seed_std = np.sqrt(np.sum(variances, axis=0)) / len(layout.patient_names)
    return RunValues(np.concatenate(parts)[order], np.concatenate(volumes)[order], min(counts), seed_std)


def _weight(cases: Sequence[str], layout: Layout) -> float:
    """Count the patients that these cases are; one of whom only some cases are here counts by their share."""
    counts = Counter(layout.patients.values())
    return sum(1 / counts[layout.patients[case]] for case in cases)


def _seed_variance(stacked: np.ndarray, cases: Sequence[str], layout: Layout) -> np.ndarray:
    """Return the variance between seeds of the mean over patients: (columns, regions, metrics)."""
    part = replace(layout, patients={case: layout.patients[case] for case in cases})
    means = np.stack([layout.with_summaries(known_mean(part.by_patient(v), 0)[None])[0] for v in stacked])
    return means.var(axis=0, ddof=1) if len(stacked) > 1 else np.full(means.shape[1:], np.nan)


def check_references(
    name: str, volumes: np.ndarray, other: str, others: np.ndarray, cases: Sequence[str]
) -> None:
    """Refuse runs that were scored against different reference segmentations.

    Args:
        volumes, others: (cases, regions), in mm³.

    Raises:
        MSTKDError: naming the first case.
    """
    same = np.isclose(volumes, others, rtol=_VOLUME_TOLERANCE, equal_nan=True).all(axis=1)
    if not same.all():
        raise MSTKDError(
            f"'{name}' and '{other}' were scored against different reference segmentations:"
            f" the volumes of {int((~same).sum())} cases differ (first: {cases[int(np.argmin(same))]});"
            " evaluate both with the same --labels"
        )


def scores_table(names: Sequence[str], values: Sequence[RunValues], layout: Layout) -> pd.DataFrame:
    """List one row per run, case, subset and region, as :class:`Comparison` describes it."""
    index = pd.MultiIndex.from_product([names, layout.patients, layout.subsets, layout.regions])
    table = index.to_frame(index=False, name=["run", *_KEYS])
    table.insert(1, "patient", table["case"].map(dict(layout.patients)))
    stacked = np.concatenate([run.scores.reshape(-1, len(layout.metrics)) for run in values])
    return pd.concat([table, pd.DataFrame(stacked, columns=list(layout.metrics))], axis=1)
