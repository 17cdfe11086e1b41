"""Scores as they come in: one small file per case, so that nothing finished is done twice.

``OUT/cases/CASE.json`` holds raw scores, before any policy for empty masks: the policy can be changed without
predicting again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore
from nnunetv2_mstkd.files import locked_folder, read_json, write_json

CASES = "cases"


@dataclass(frozen=True)
class SubsetScores:
    """One case under one subset.

    Attributes:
        voxels: number of voxels that were compared.
        regions: region → its score.
    """

    voxels: int
    regions: Mapping[str, RegionScore]

    def to_json(self) -> dict[str, Any]:
        """Return what is stored."""
        return {"voxels": self.voxels, "regions": {n: score.to_json() for n, score in self.regions.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SubsetScores:
        """Read what :meth:`to_json` gave."""
        regions = {name: RegionScore.from_json(score) for name, score in content["regions"].items()}
        return cls(int(content["voxels"]), regions)


@dataclass(frozen=True)
class CaseScores:
    """What is known of a case.

    Attributes:
        subsets: subset (as ``format_subset`` prints it) → its scores.
        impossible: subsets with a modality that the case lacks.
        lacking: the modalities that it lacks, once it was read.
    """

    subsets: Mapping[str, SubsetScores] = field(default_factory=dict)
    impossible: frozenset[str] = frozenset()
    lacking: tuple[str, ...] = ()

    @property
    def started(self) -> bool:
        """Whether anything is known."""
        return bool(self.subsets or self.impossible)

    def settled(self, subset: str) -> bool:
        """Say whether nothing is left to do for a subset."""
        return subset in self.subsets or subset in self.impossible


class ScoreStore:
    """The scores of an evaluation's folder; any number of threads and processes may add to it."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; ``folder`` is the evaluation's own."""
        self.folder = folder / CASES

    def read(self, case: str) -> CaseScores:
        """Read what is stored of a case.

        Raises:
            MSTKDError: its file is none of ours.
        """
        path = self._path(case)
        if not path.is_file():
            return CaseScores()
        content = read_json(path)
        try:
            subsets = {name: SubsetScores.from_json(value) for name, value in content["subsets"].items()}
            return CaseScores(subsets, frozenset(content["impossible"]), tuple(content["lacking"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MSTKDError(
                f"{path} is not a file of scores ({error!r}); remove it to score again"
            ) from None

    def count(self, wanted: Iterable[tuple[str, str]]) -> int:
        """Count how many of these cases under subsets have scores."""
        by_case: dict[str, set[str]] = {}
        for case, subset in wanted:
            by_case.setdefault(case, set()).add(subset)
        return sum(len(subsets & self.read(case).subsets.keys()) for case, subsets in by_case.items())

    def add(self, case: str, subset: str, scores: SubsetScores) -> None:
        """Store a case's scores under one subset."""
        self._update(case, lambda old: replace(old, subsets={**old.subsets, subset: scores}))

    def mark_impossible(self, case: str, subsets: Iterable[str], lacking: Iterable[str]) -> None:
        """Store that a case lacks modalities, and which subsets it can therefore not be scored under."""
        names = tuple(lacking)
        self._update(case, lambda old: CaseScores(old.subsets, old.impossible.union(subsets), names))

    def _update(self, case: str, change: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked_folder(self.folder):
            new = change(self.read(case))
            content = {
                "subsets": {name: scores.to_json() for name, scores in new.subsets.items()},
                "impossible": sorted(new.impossible),
                "lacking": list(new.lacking),
            }
            write_json(content, self._path(case))

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.json"
