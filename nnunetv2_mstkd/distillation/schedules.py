"""How weights and the learning rate change over the epochs."""

from __future__ import annotations

import math


def sigmoid_rampup(epoch: float, length: float) -> float:
    """exp(-5·(1 - min(epoch, length)/length)²): from 0.0067 at epoch 0 to 1 at ``length`` and after.

    Args:
        epoch: epochs done, may be fractional.
        length: epochs of the ramp; 0 is no ramp.

    Source: ``get_current_consistency_weight`` of the released code (REFERENCE 1.3), without its factor 10.
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(max(epoch, 0.0), length) / length) ** 2)
