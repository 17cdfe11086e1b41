"""Losses of RFNet, mmFormer and M2FTrans against numbers of RFNet's released code (tests/data/rfnet)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy

GOLDEN = dict(np.load(Path(__file__).resolve().parents[1] / "data" / "rfnet" / "losses_A.npz"))
LOSSES = {"softmax_weighted_loss": weighted_cross_entropy, "dice_loss": soft_dice}


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(GOLDEN[name]))


@pytest.mark.parametrize("case", ["base", "confident", "class_absent", "single"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients(case, name):
    logits = golden(f"{case}.logits").requires_grad_()
    probabilities = logits.softmax(1)
    probabilities.retain_grad()
    target = F.one_hot(golden(f"{case}.target_classes").long(), 4).movedim(-1, 1)
    loss = LOSSES[name](probabilities=probabilities, target=target)
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN[f"{case}.{name}"].item(), rel=1e-5)
    for found, what in ((probabilities.grad, "probs"), (logits.grad, "logits")):
        expected = golden(f"{case}.{name}_grad_{what}")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_half_precision_is_widened():
    probabilities = torch.rand(1, 2, 64, 64, 32).softmax(1)
    target = F.one_hot(torch.randint(0, 2, (1, 64, 64, 32)), 2).movedim(-1, 1)
    for loss in LOSSES.values():
        full = loss(probabilities=probabilities, target=target)
        half = loss(probabilities=probabilities.half(), target=target.half())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=1e-3, atol=0)
