"""Schedules of terms."""

from __future__ import annotations

from math import exp


def sigmoid_rampup(epoch: float, length: float) -> float:
    """exp(−5·(1 − min(epoch, length)/length)²): 0.0067 at epoch 0, 1 from ``length`` on (docs/fidelity.md).

    Args:
        epoch: epochs done, may be fractional; below 0 counts as 0.
        length: epochs that the ramp takes; 0 or less is no ramp.
    """
    return exp(-5 * (1 - linear_rampup(epoch, length)) ** 2)


def linear_rampup(epoch: float, length: float) -> float:
    """From 0 at epoch 0 to 1 at ``length``, and 1 from there on.

    Args:
        epoch: epochs done, may be fractional; below 0 counts as 0.
        length: epochs that the ramp takes; 0 or less is no ramp.
    """
    return 1.0 if length <= 0 else min(max(epoch, 0.0), length) / length
