"""The released losses of IM-Fuse are those of ``losses/segmentation.py``: golden values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from imfuse_golden import read_arrays

from nnunetv2_mstkd.architectures.fusion import upsampled_logits
from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy

GOLDEN = read_arrays("losses_A")


def one_hot(name: str) -> torch.Tensor:
    return F.one_hot(torch.from_numpy(GOLDEN[name]).long(), 4).movedim(-1, 1).float()


def both(probabilities: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return sum(
        loss(probabilities=probabilities, target=target) for loss in (weighted_cross_entropy, soft_dice)
    )


LOSSES = {
    "ce": ("pred", "label", lambda p, t: weighted_cross_entropy(probabilities=p, target=t)),
    "dice": ("pred", "label", lambda p, t: soft_dice(probabilities=p, target=t)),
    "sum_of_logits": ("logits", "label", lambda x, t: both(x.softmax(1), t)),
    "deep_supervision": (
        "coarse_logits",
        "coarse_label",
        lambda x, t: both(upsampled_logits(x, t.shape[2:], regions=False).softmax(1), t),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_released_values_and_gradients(name):
    given, label, loss_of = LOSSES[name]
    x = torch.from_numpy(GOLDEN[f"in_{given}"]).requires_grad_()
    loss = loss_of(x, one_hot(f"in_{label}"))
    assert float(loss) == pytest.approx(GOLDEN[f"{name}_value"].item(), rel=1e-5)
    loss.backward()
    expected = GOLDEN[f"{name}_grad"]
    np.testing.assert_allclose(x.grad, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
