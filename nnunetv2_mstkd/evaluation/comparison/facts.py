"""What can be said of all evaluations of a comparison, so that none of them speaks for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnunetv2_mstkd.evaluation.record.record import EvaluationRecord

UNKNOWN_VERSION = "(version unknown)"


@dataclass(frozen=True)
class CommonFacts:
    """Facts over all evaluations of all runs; what may differ is a list of what there is, in order.

    Attributes:
        datasets: names of the data sets, each once.
        versions: package → the versions that scored something, each once.
        models: how many models predicted.
        finished: how many folders of finished segmentations were scored.
        subsets: how many different subsets any case was scored under.
        fewest, most: subsets that a case was scored under.
        lesionwise: name of the lesion-wise rules, which all share, or None.
    """

    datasets: tuple[str, ...]
    versions: Mapping[str, tuple[str, ...]]
    models: int
    finished: int
    subsets: int
    fewest: int
    most: int
    lesionwise: str | None


def common_facts(records: Sequence[EvaluationRecord], scored: Mapping[str, frozenset[str]]) -> CommonFacts:
    """Collect the facts of evaluations that agree.

    Args:
        records: of all evaluations of all runs.
        scored: case → the subsets that it is scored under.
    """
    used = [versions for record in records for versions in record.used_versions]
    packages = dict.fromkeys(package for versions in used for package in versions)
    counts = [len(subsets) for subsets in scored.values()]
    return CommonFacts(
        datasets=_once(record.dataset for record in records if record.dataset),
        versions={
            package: _once(versions.get(package, UNKNOWN_VERSION) for versions in used)
            for package in packages
        },
        models=len({_identity(record) for record in records if record.predicted}),
        finished=len({_identity(record) for record in records if not record.predicted}),
        subsets=len(frozenset().union(*scored.values())),
        fewest=min(counts),
        most=max(counts),
        lesionwise=records[0].lesionwise,
    )


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _identity(record: EvaluationRecord) -> tuple[str, str]:
    return str(record.model.get("id")), str(record.model["name"])
