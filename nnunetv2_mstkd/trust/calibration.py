"""The content of ``trust.json``: what was measured, of which model, on which cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunetv2_mstkd.models.folder import Fold
from nnunetv2_mstkd.trust.estimator import Estimator
from nnunetv2_mstkd.trust.facts import Facts

VERSION = 1
CROSS_VALIDATION, HELD_OUT = "cross-validation", "held-out cases"


@dataclass(frozen=True)
class Gain:
    """What one more sequence was worth to the same patients.

    Attributes:
        mean: difference of Dice, mean over patients.
        low, high: 95 % bootstrap interval of the mean, over patients.
        patients: how many had both.
    """

    mean: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is known of a model's quality.

    Attributes:
        kind: ``CROSS_VALIDATION``: each fold on its own validation cases; ``HELD_OUT``: cases that none of
            the folds has learnt from.
        known_by: what says that the cases were not learnt from.
        folds: the folds that predicted together, one group per evaluation.
        checkpoint: file name of the weights in each fold's folder.
        digests: fold (as text) → digest of that file.
        inference: how it was predicted: ``step_size``, ``mirroring``.
        modalities: in channel order.
        regions: region → its label values.
        unit: of volumes: ``ml``, or ``cm²`` in 2D.
        evaluations: where the facts are from, for people: model id, folds, number of cases, date.
        versions: package → version.
        signals: region → what is used beyond the subset to say what Dice to expect.
        shown: region → whether that is shown ``beyond_chance``, and what was tried (``changes``).
        gains: subset → absent sequence → region → what it adds.
        facts: everything that was measured.
    """

    kind: str
    known_by: str
    folds: tuple[tuple[Fold, ...], ...]
    checkpoint: str
    digests: Mapping[str, str]
    inference: Mapping[str, Any]
    modalities: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    unit: str
    evaluations: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, Mapping[str, Gain]]] = field(default_factory=dict)
    facts: Facts

    @property
    def patients(self) -> int:
        """How many there were."""
        return len(np.unique(self.facts.patients))

    @property
    def cases(self) -> int:
        """How many there were."""
        return len(np.unique(self.facts.cases))

    @property
    def every_fold(self) -> list[Fold]:
        """Each fold that was measured, alone or with others."""
        return sorted({fold for group in self.folds for fold in group}, key=str)

    def estimator(self, region: str) -> Estimator:
        """Make the facts of a region ready for questions."""
        facts = self.facts
        return Estimator(facts.regions[region], facts.subsets, facts.patients, self.signals.get(region, ()))

    def describes(self, folds: Sequence[Fold]) -> str | None:
        """Say in which way it holds for a prediction by some folds; None where it does not.

        Folds that were measured one by one say what any of them is worth, and at least roughly what their
        mean is; several measured together say nothing about fewer.
        """
        asked, measured = frozenset(folds), [frozenset(group) for group in self.folds]
        if asked in measured and len(measured) == 1:
            return "these folds"
        singles = {fold for group in measured if len(group) == 1 for fold in group}
        if asked <= singles:
            return "single folds" if len(asked) > 1 else "folds of this training"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``trust.json``."""
        return {
            "version": VERSION,
            "kind": self.kind,
            "known_by": self.known_by,
            "folds": [list(group) for group in self.folds],
            "checkpoint": self.checkpoint,
            "digests": dict(self.digests),
            "inference": dict(self.inference),
            "modalities": list(self.modalities),
            "regions": {name: list(labels) for name, labels in self.regions.items()},
            "unit": self.unit,
            "evaluations": [dict(evaluation) for evaluation in self.evaluations],
            "versions": dict(self.versions),
            "patients": self.patients,
            "cases": self.cases,
            "signals": {name: list(signals) for name, signals in self.signals.items()},
            "shown": dict(self.shown),
            "gains": {
                subset: {
                    name: {region: vars(gain) for region, gain in by_region.items()}
                    for name, by_region in by_name.items()
                }
                for subset, by_name in self.gains.items()
            },
            "facts": self.facts.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_json` gave; entries that are not known here (``table``) are left alone.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, this package reads version {VERSION}")
        gains = {
            subset: {
                name: {region: Gain(**gain) for region, gain in by_region.items()}
                for name, by_region in by_name.items()
            }
            for subset, by_name in content["gains"].items()
        }
        return cls(
            kind=content["kind"],
            known_by=content["known_by"],
            folds=tuple(tuple(group) for group in content["folds"]),
            checkpoint=content["checkpoint"],
            digests=content["digests"],
            inference=content["inference"],
            modalities=tuple(content["modalities"]),
            regions={name: tuple(labels) for name, labels in content["regions"].items()},
            unit=content["unit"],
            evaluations=content["evaluations"],
            versions=content["versions"],
            signals={name: tuple(signals) for name, signals in content["signals"].items()},
            shown=content["shown"],
            gains=gains,
            facts=Facts.from_json(content["facts"]),
        )
