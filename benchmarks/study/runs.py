"""One training and its evaluation: of which arm, under which condition, on which fold, from which seed."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.study.arms import Arm
from benchmarks.study.sizes import Training

# nnU-Net reads as many folds as splits_final.json has; the five are convert's.
FEW_FOLD = 5
QUARTER = 0.25


@dataclass(frozen=True)
class Condition:
    """Data and length of a training.

    Attributes:
        name: in plans and folders; empty for the main one.
        few_labels: train on few patients (of the phantom).
        length: share of the size's compute.
    """

    name: str = ""
    few_labels: bool = False
    length: float = 1.0

    def budget(self, training: Training) -> tuple[int, int]:
        """Return the epochs of student steps, and steps per epoch."""
        if self.length == QUARTER:
            return training.short_epochs, training.short_steps
        return round(self.length * training.epochs), training.steps


MAIN = Condition()


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        arm: way of training.
        seed: of the training. In a cross-validation each fold has seeds of its own.
        condition: data and length.
        fold: of ``splits_final.json``.
        repeat: which of the arm's rounds through all patients it belongs to.
    """

    arm: Arm
    seed: int
    condition: Condition = MAIN
    fold: int = 0
    repeat: int = 0

    @property
    def plans(self) -> str:
        """Name of its plans file: settings live in the plans."""
        parts = ["Study", *filter(None, [self.condition.name]), self.arm.key, f"seed{self.seed}"]
        return "_".join(parts)


def runs_of(arm: Arm, condition: Condition, repeat: int, folds: int) -> list[Run]:
    """Return one round through all patients: a run per fold."""
    if folds == 1:
        return [Run(arm, repeat, condition, FEW_FOLD if condition.few_labels else 0, repeat)]
    return [Run(arm, repeat * folds + fold, condition, fold, repeat) for fold in range(folds)]
