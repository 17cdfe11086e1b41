"""The released segmentation losses against numbers of M2FTrans' released code (tests/data/m2ftrans)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy

GOLDEN = dict(np.load(Path(__file__).resolve().parents[2] / "data" / "m2ftrans" / "losses_A.npz"))
LOSSES = {"softmax_weighted_loss": weighted_cross_entropy, "dice_loss": soft_dice}


@pytest.mark.parametrize("case", ["base", "confident", "class_absent", "single"])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(case, name):
    logits = torch.from_numpy(GOLDEN[f"{case}.logits"]).requires_grad_()
    classes = torch.from_numpy(GOLDEN[f"{case}.target_classes"]).long()
    probabilities = logits.softmax(1)
    probabilities.retain_grad()
    loss = LOSSES[name](probabilities=probabilities, target=F.one_hot(classes, 4).movedim(-1, 1))
    assert loss.item() == pytest.approx(GOLDEN[f"{case}.{name}"].item(), rel=1e-5)
    loss.backward()
    for of_what, found in {"probs": probabilities.grad, "logits": logits.grad}.items():
        expected = GOLDEN[f"{case}.{name}_grad_{of_what}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
