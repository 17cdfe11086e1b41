"""Equality with numbers computed by the authors' released code (tests/data/mstkd_losses_setA.npz)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunetv2_mstkd.distillation import (
    MSTKDObjective,
    ObjectiveConfig,
    attention_extremes_loss,
    content_loss,
    gram_matching_loss,
    sigmoid_rampup,
    standardised_kl_loss,
    style_adversarial_loss,
    style_discriminator_loss,
    token_feature_loss,
)
from nnunetv2_mstkd.distillation.official_dice import official_dice_losses

GOLDEN = {
    name: torch.from_numpy(np.asarray(array))
    for name, array in np.load(Path(__file__).parents[1] / "data" / "mstkd_losses_setA.npz").items()
}


def inputs(prefix: str, count: int) -> list[torch.Tensor]:
    return [GOLDEN[f"{prefix}_{i}"].clone().requires_grad_(True) for i in range(count)]


def same(value: torch.Tensor, name: str) -> None:
    expected = GOLDEN[name]
    tolerance = 1e-4 if float(expected.abs().max()) < 1e-9 else 1e-5
    error = (value.detach() - expected).abs().max()
    assert error <= tolerance * expected.abs().max(), f"{name}: {value} is not {expected}"


def test_attention_extremes_and_both_gradients():
    student, teacher = inputs("evd_in_student", 4), inputs("evd_in_teacher", 4)
    loss = attention_extremes_loss(student=student, teacher=teacher, variant="official")
    same(loss, "evd_out")
    loss.backward()
    same(student[0].grad, "evd_grad_student_0")
    same(teacher[0].grad, "evd_grad_teacher_0")


def test_token_features_and_gradient():
    student, teacher = inputs("unetr_in_student", 4), inputs("unetr_in_teacher", 4)
    loss = token_feature_loss(student=student, teacher=teacher, variant="official")
    same(loss, "unetr_out")
    loss.backward()
    same(student[3].grad, "unetr_grad_student_3")


def test_standardised_kl_and_both_gradients():
    student = GOLDEN["slkd_in_student_logit"].clone().requires_grad_(True)
    teacher = GOLDEN["slkd_in_teacher_logit"].clone().requires_grad_(True)
    loss = standardised_kl_loss(student=student, teacher=teacher, temperature=7, variant="official")
    same(loss, "slkd_out_official_call_T7")
    loss.backward()
    same(student.grad, "slkd_grad_student_official")
    same(teacher.grad, "slkd_grad_teacher_official")


@pytest.mark.parametrize("temperature", [1, 7])
def test_the_released_call_swaps_its_arguments(temperature):
    """With the arguments exchanged ours gives what the released function gives in its own order."""
    loss = standardised_kl_loss(
        student=GOLDEN["slkd_in_teacher_logit"],
        teacher=GOLDEN["slkd_in_student_logit"],
        temperature=temperature,
        variant="official",
    )
    same(loss, f"slkd_out_signature_order_T{temperature}")


def test_gram_matching_and_gradient():
    student, teacher = inputs("gs_in_missing", 3), inputs("gs_in_full", 3)
    loss = gram_matching_loss(student=student, teacher=teacher, variant="official")
    same(loss, "gs_out")
    loss.backward()
    same(student[1].grad, "gs_grad_missing_1")


def test_dice():
    losses = official_dice_losses(GOLDEN["dice_in_prob"], GOLDEN["dice_in_target"])
    for channel, loss in enumerate(losses):
        same(loss, f"dice_out_ch{channel}")
    empty = torch.zeros_like(GOLDEN["dice_in_target"])
    same(official_dice_losses(GOLDEN["dice_in_prob"], empty)[0], "dice_out_empty_target")
    same(official_dice_losses(empty, empty)[0], "dice_out_both_empty")


def test_ramp():
    ramp = torch.tensor([10 * sigmoid_rampup(epoch, 20) for epoch in range(31)])
    torch.testing.assert_close(ramp.double(), GOLDEN["ramp_out_epochs_0_30"].double(), rtol=1e-5, atol=0)


def test_adversarial_pair():
    logit = GOLDEN["bce_in_logit"]
    same(style_adversarial_loss(student=logit), "bce_out_label0")
    both = style_discriminator_loss(student=logit, teacher=logit)
    torch.testing.assert_close(both, GOLDEN["bce_out_label0"] + GOLDEN["bce_out_label1"], rtol=1e-5, atol=0)


def test_content():
    loss = content_loss(
        student=GOLDEN["co_in_content_missing"], teacher=GOLDEN["co_in_content_full"], variant="official"
    )
    same(loss, "co_out_ep7_content_loss")


def co_taps(which: str) -> SimpleNamespace:
    logits = torch.logit(GOLDEN[f"co_in_prob_{which}"].double()).float()
    return SimpleNamespace(logits=logits, content=GOLDEN[f"co_in_content_{which}"])


@pytest.mark.parametrize(("regions", "name"), [(True, "co"), (False, "co_divide")])
@pytest.mark.parametrize("epoch", [0, 7, 20])
def test_the_whole_segmentation_objective(regions, name, epoch):
    """loss_Co: Dice of both, ramped consistency, content; "divide" with its background quirk."""
    off = dict.fromkeys(("kl", "token_features", "attention", "adversarial"), 0.0)
    config = ObjectiveConfig.official().with_weights(off)
    channels = slice(0, 3) if regions else slice(None)
    objective = MSTKDObjective(config, regions=regions, variant="official", background_channel=-1)
    student, teacher = co_taps("missing"), co_taps("full")
    student.logits, teacher.logits = student.logits[:, channels], teacher.logits[:, channels]
    result = objective(
        student=student,
        teacher=teacher,
        target=GOLDEN["co_in_target"][:, channels],
        epoch=epoch,
        num_epochs=100,
        train_teacher=True,
    )
    same(result.total, f"{name}_out_ep{epoch}_loss_Co")
    if epoch == 7:
        same(result.terms["segmentation"], f"{name}_out_ep7_loss_miss_dc")
        same(result.terms["teacher_segmentation"], f"{name}_out_ep7_loss_dc")
        same(result.terms["consistency"], f"{name}_out_ep7_consistency_loss")
        same(result.terms["content"], f"{name}_out_ep7_content_loss")
