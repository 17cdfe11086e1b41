"""What was measured of a model: one row per case and subset, a column per region and fact. No names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

_DIGITS = 5  # significant; what is rounded away is far below what any of it can be known to


@dataclass(frozen=True, eq=False)
class RegionFacts:
    """Facts about one region; all (N,), one value per case and subset.

    Attributes:
        dice: in 0 to 1; two empty masks agree (1), one empty mask does not (0), as BraTS counts them.
        hd95: mm; nan where a mask is empty.
        reference: true volume in ml (cm² in 2D).
        predicted: volume of the segmentation, likewise.
        agreement: mean pairwise Dice of the folds' segmentations; nan where there was one fold.
    """

    dice: np.ndarray
    hd95: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    agreement: np.ndarray

    def rows(self, chosen: np.ndarray) -> RegionFacts:
        """Return some rows, by mask or position."""
        return RegionFacts(*(getattr(self, f.name)[chosen] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class Facts:
    """All that was measured.

    Attributes:
        subsets: (N,) str, the sequences that were used, as ``format_subset`` prints them.
        cases, patients: (N,) int, numbers without meaning: which rows belong together.
        regions: region → its facts.
    """

    subsets: np.ndarray
    cases: np.ndarray
    patients: np.ndarray
    regions: Mapping[str, RegionFacts]

    def __len__(self) -> int:
        return len(self.subsets)

    def rows(self, chosen: np.ndarray) -> Facts:
        """Return some rows, by mask or position."""
        regions = {name: facts.rows(chosen) for name, facts in self.regions.items()}
        return Facts(self.subsets[chosen], self.cases[chosen], self.patients[chosen], regions)

    def shared_with(self, other: Facts) -> float:
        """Return the share of rows that ``other`` has as well, as far as their numbers tell."""
        mine, theirs = self._fingerprints(), set(other._fingerprints())
        return sum(row in theirs for row in mine) / max(len(mine), 1)

    def _fingerprints(self) -> list[tuple[Any, ...]]:
        columns = [_plain(c) for f in self.regions.values() for c in (f.reference, f.predicted, f.dice)]
        return list(zip(self.subsets.tolist(), *columns, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return lists, each subset written out once."""
        names, codes = np.unique(self.subsets, return_inverse=True)
        return {
            "subsets": names.tolist(),
            "subset": codes.tolist(),
            "case": self.cases.tolist(),
            "patient": self.patients.tolist(),
            "regions": {
                name: {f.name: _plain(getattr(facts, f.name)) for f in fields(facts)}
                for name, facts in self.regions.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Facts:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        subsets = np.array(content["subsets"], dtype=object)[np.array(content["subset"], dtype=int)]
        regions = {
            name: RegionFacts(**{f.name: np.array(columns[f.name], dtype=float) for f in fields(RegionFacts)})
            for name, columns in content["regions"].items()
        }
        cases, patients = (np.array(content[name], dtype=int) for name in ("case", "patient"))
        facts = cls(subsets, cases, patients, regions)
        lengths = {len(facts), len(facts.cases), len(facts.patients)}
        lengths |= {len(getattr(r, f.name)) for r in regions.values() for f in fields(r)}
        if len(lengths) != 1:
            raise ValueError(f"columns of {sorted(lengths)} rows")
        return facts


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.{_DIGITS}g}") for value in values]


def numbered(names: Sequence[str]) -> np.ndarray:
    """Replace names (N,) by numbers."""
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1]
