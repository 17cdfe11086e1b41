"""Schedules: the ramp-up of terms, and the learning rate of the released script."""

from __future__ import annotations

from math import exp


def sigmoid_rampup(epoch: float, length: float) -> float:
    """exp(−5·(1 − min(epoch, length)/length)²): 0.0067 at epoch 0, 1 from ``length`` on (docs/fidelity.md).

    Args:
        epoch: epochs done, may be fractional; below 0 counts as 0.
        length: epochs that the ramp takes; 0 or less is no ramp.
    """
    if length <= 0:
        return 1.0
    return exp(-5 * (1 - min(max(epoch, 0.0), length) / length) ** 2)


def official_poly_lr(
    epoch: int, num_epochs: int = 100, initial_lr: float = 1e-4, exponent: float = 0.9
) -> float:
    """Learning rate in force during ``epoch`` in the released script (released train.py).

    It steps its scheduler before the epoch, so epoch e has (1 − (e+1)/num_epochs)^exponent and the last
    epoch a rate of exactly 0.
    """
    return initial_lr * max(0.0, 1 - (epoch + 1) / num_epochs) ** exponent
