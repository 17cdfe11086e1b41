"""What to expect of one case's segmentation, region by region."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunetv2_mstkd.modalities import format_subset
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold, ModelFolder
from nnunetv2_mstkd.trust.calibration import Calibration
from nnunetv2_mstkd.trust.conformal import COVERAGE, upper_end, weighted_median
from nnunetv2_mstkd.trust.estimator import AGREEMENT, BAD_DICE, Estimator
from nnunetv2_mstkd.trust.storage import Found, find_trust


@dataclass(frozen=True)
class Helps:
    """The absent sequence that would help most, as far as was measured.

    Attributes:
        sequence: its name.
        dice: what it added to the Dice of the same patients, on average.
        low, high: 95 % interval of that average.
        patients: how many.
    """

    sequence: str
    dice: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class Expected:
    """What is expected of one region of one case.

    Attributes:
        dice: median.
        dice_low, dice_high: interval that is made to cover 90 % of new cases; 0 and 1 where nothing narrower
            is known.
        basis: what the interval rests on, in words.
        cases, patients: that it rests on.
        volume: of this segmentation, in ``unit``.
        volume_error: median of the difference from the true volume, without its sign, in ``unit``.
        volume_error_high: 90 % of new cases are expected to differ by no more; None for too few patients.
        unit: ``ml``, or ``cm²`` in 2D.
        agreement: mean pairwise Dice of the folds' segmentations of this case; None for one fold.
        look: whether a reader should look; None where no measured case was bad, so that there is no rule.
        why: the rule that says so, with its miss rate.
        missed, bad: of the bad segmentations measured under this case's sequences, how many the rule would
            have missed.
        helps: the absent sequence that would help most; None where none is known to.
    """

    dice: float
    dice_low: float
    dice_high: float
    basis: str
    cases: int
    patients: int
    volume: float
    volume_error: float
    volume_error_high: float | None
    unit: str
    agreement: float | None
    look: bool | None
    why: str
    missed: int
    bad: int
    helps: Helps | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, numbers with as many digits as they are worth."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    def in_short(self) -> str:
        """``0.83 (0.61 to 0.93)``, with a mark where a reader should look."""
        return f"{self.dice:.2f} ({self.dice_low:.2f} to {self.dice_high:.2f}){' LOOK' if self.look else ''}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Expectations:
    """What is known of a model, made ready for case after case.

    Attributes:
        calibration: None where nothing is known.
        says: one line for the user: what it rests on, or why nothing is known and what to do.
    """

    def __init__(self, found: Found) -> None:
        self.calibration, self.says = found.calibration, found.says
        self._estimators: dict[str, Estimator] = {}

    @classmethod
    def of(
        cls,
        model: ModelFolder,
        folds: Sequence[Fold],
        checkpoint: str = FINAL_CHECKPOINT,
        inference: Mapping[str, Any] | None = None,
    ) -> Expectations:
        """Look for what is known of predictions by these folds; see :func:`find_trust`."""
        return cls(find_trust(model, folds, checkpoint, inference))

    def expected(
        self,
        used: Collection[str],
        volumes: Mapping[str, float],
        agreement: Mapping[str, float] | None = None,
    ) -> dict[str, Expected]:
        """Say what to expect of a case.

        Args:
            used: the sequences that its segmentation is based on.
            volumes: region → volume of the segmentation in mm³ (mm² in 2D).
            agreement: region → mean pairwise Dice of the folds, where there are several.

        Returns:
            Region → what is expected; empty where nothing is known, of the model or of these sequences.
        """
        known = self.calibration
        if known is None or not used:
            return {}
        subset = format_subset(used, known.modalities)
        return {
            region: self._region(known, region, subset, volumes[region], (agreement or {}).get(region))
            for region in known.regions
            if region in volumes and self._answers(known, region, subset, agreement or {})
        }

    def _answers(self, known: Calibration, region: str, subset: str, agreement: Mapping[str, float]) -> bool:
        if region not in self._estimators:
            self._estimators[region] = known.estimator(region)
        estimator = self._estimators[region]
        return estimator.knows(subset) and (AGREEMENT not in estimator.signals or region in agreement)

    def _region(
        self, known: Calibration, region: str, subset: str, volume: float, agreement: float | None
    ) -> Expected:
        estimator, facts = self._estimators[region], known.facts.regions[region]
        volume /= per_unit(known.unit)
        seen = math.nan if agreement is None else agreement
        estimate = estimator.estimate(subset, volume, seen)
        here = estimator.subsets == subset
        middle, high = _volume_error(facts.predicted[here], facts.reference[here], estimator.patients[here])
        scale = volume + _typical(facts.predicted[here])
        look, why = _look(estimator, estimate.median, volume, known.unit)
        bad = here & (facts.dice < BAD_DICE)
        threshold = estimator.rule.threshold
        missed = 0 if threshold is None else int((estimator.scores[bad] > threshold).sum())
        return Expected(
            dice=estimate.median,
            dice_low=estimate.interval.low,
            dice_high=estimate.interval.high,
            basis=_basis(estimator, estimate.interval.sides, subset, estimate.patients),
            cases=estimate.cases,
            patients=estimate.patients,
            volume=volume,
            volume_error=middle * scale,
            volume_error_high=None if math.isinf(high) else high * scale,
            unit=known.unit,
            agreement=agreement,
            look=look,
            why=why,
            missed=missed,
            bad=int(bad.sum()),
            helps=_helps(known, subset, region),
        )


def expected(
    model: ModelFolder,
    used: Collection[str],
    volumes: Mapping[str, float],
    *,
    folds: Sequence[Fold],
    agreement: Mapping[str, float] | None = None,
    checkpoint: str = FINAL_CHECKPOINT,
) -> dict[str, Expected]:
    """Say what to expect of one case; for several, make :class:`Expectations` once.

    Args:
        model: its folder, with ``trust.json``.
        used, volumes, agreement: see :meth:`Expectations.expected`.
        folds: that predicted.
        checkpoint: file name in each fold's folder.
    """
    return Expectations.of(model, folds, checkpoint).expected(used, volumes, agreement)


def per_unit(unit: str) -> float:
    """Return how many mm³ a ml has, or mm² a cm²."""
    return 1000.0 if unit == "ml" else 100.0


def _typical(predicted: np.ndarray) -> float:
    """Return what the error is measured against beside the volume itself: 0 ml may have missed much."""
    typical = float(np.median(predicted))
    return typical if typical > 0 else 1.0


def volume_scores(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the error of volumes (N,) relative to what was predicted plus what is usually predicted.

    Source: locally weighted conformal prediction (Lei et al., section 5.2), with that sum as the scale.
    """
    return np.abs(predicted - reference) / (predicted + _typical(predicted))


def _volume_error(predicted: np.ndarray, reference: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    scores = volume_scores(predicted, reference)
    return weighted_median(scores, patients), upper_end(scores, patients, 1 - COVERAGE)


def _basis(estimator: Estimator, sides: int, subset: str, patients: int) -> str:
    like = f"with {subset}"
    if estimator.signals:
        like += f", and {' and '.join(estimator.signals)}"
    if sides == 2:
        return f"{patients} patients {like}"
    if sides == 1:
        return f"only {patients} patients {like}: no upper end"
    return f"only {patients} patients {like}: too few for an interval, nine give a lower end"


def _look(estimator: Estimator, median: float, volume: float, unit: str) -> tuple[bool | None, str]:
    rule, predicted = estimator.rule, estimator.facts.predicted
    least, most = float(predicted.min()), float(predicted.max())
    if not least <= volume <= most:
        side, end = ("below", least) if volume < least else ("above", most)
        return True, (
            f"its volume, {volume:.4g} {unit}, is {side} all that was measured ({end:.4g} {unit}"
            f" {'at least' if side == 'below' else 'at most'})"
        )
    if rule.threshold is None:
        return None, f"no rule: no measured segmentation had a Dice below {BAD_DICE}"
    text = (
        f"look where the expected Dice is at most {rule.threshold:.2f}: misses at most"
        f" {100 * rule.miss_rate:.0f} % of the segmentations with a Dice below {BAD_DICE}"
        f" (measured on {rule.bad} such of {rule.bad_patients} patients)"
    )
    return median <= rule.threshold, text


def _helps(known: Calibration, subset: str, region: str) -> Helps | None:
    gains = {
        name: by_region[region]
        for name, by_region in known.gains.get(subset, {}).items()
        if region in by_region and by_region[region].low > 0
    }
    if not gains:
        return None
    name = max(gains, key=lambda n: gains[n].mean)
    gain = gains[name]
    return Helps(name, gain.mean, gain.low, gain.high, gain.patients)
