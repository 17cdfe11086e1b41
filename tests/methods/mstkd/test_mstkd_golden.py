"""Equality with numbers computed by the authors' released code (tests/data/mstkd_losses_setA.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import DATA

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.losses.features import content_loss, token_feature_loss
from nnunetv2_mstkd.losses.logits import consistency_loss, standardised_kl_loss
from nnunetv2_mstkd.losses.schedules import sigmoid_rampup
from nnunetv2_mstkd.losses.style import (
    gram_matching_loss,
    official_gram,
    style_adversarial_loss,
    style_discriminator_loss,
)
from nnunetv2_mstkd.methods.mstkd.attention import attention_extremes_loss
from nnunetv2_mstkd.methods.mstkd.objective import MSTKDObjective
from nnunetv2_mstkd.methods.mstkd.official_dice import official_dice_losses
from nnunetv2_mstkd.methods.mstkd.weights import ObjectiveConfig
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases

GOLDEN = {
    name: torch.from_numpy(np.asarray(array))
    for name, array in np.load(DATA / "mstkd_losses_setA.npz").items()
}
REGION_CHANNELS = ("wt", "tc", "et")
LABEL_CHANNELS = ("net", "snfh", "et", "bg")  # the released order: background last


def inputs(prefix: str, count: int) -> list[torch.Tensor]:
    return [GOLDEN[f"{prefix}_{i}"].clone().requires_grad_(True) for i in range(count)]


def same(value: torch.Tensor, name: str) -> None:
    expected = GOLDEN[name]
    assert value.shape == expected.shape
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
    loss = standardised_kl_loss(student=student, teacher=teacher, variant="official")
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


def test_gram_matrices():
    full = inputs("gs_in_full", 3)
    same(official_gram(full[0], full[0]), "gram_out_full_0")
    same(official_gram(full[0], full[2]), "mix_out_full_0_2")
    same(official_gram(full[1], full[0]), "mix_out_full_1_0")


def test_gram_of_one_map_is_the_style_loss():
    loss = gram_matching_loss(
        student=GOLDEN["gs_in_missing_1"], teacher=GOLDEN["gs_in_full_1"], variant="official"
    )
    same(loss, "style_out")


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
    official = ObjectiveConfig.official()
    weights = torch.tensor([official.weight("consistency", epoch, 100) for epoch in range(31)])
    torch.testing.assert_close(weights, ramp)


def test_learning_rate():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-4)
    scheduler, rates = PhasedPolyLRScheduler(optimizer, 1e-4, Phases(100, 0), lead=1), []
    for epoch in range(100):
        scheduler.step(epoch)
        rates.append(1e4 * optimizer.param_groups[0]["lr"])
    rates = torch.tensor(rates, dtype=torch.float64)
    torch.testing.assert_close(rates, GOLDEN["polylr_out_epochs_0_99"].double(), rtol=1e-5, atol=1e-12)


def test_adversarial_pair():
    logit = GOLDEN["bce_in_logit"]
    same(style_adversarial_loss(student=logit, variant="official"), "bce_out_label0")
    both = style_discriminator_loss(student=logit, teacher=logit, variant="official")
    torch.testing.assert_close(both, GOLDEN["bce_out_label0"] + GOLDEN["bce_out_label1"], rtol=1e-5, atol=0)
    certain = torch.full_like(logit, -20.0)  # says "full"
    assert style_discriminator_loss(student=-certain, teacher=certain) < 1e-6


def test_content():
    loss = content_loss(
        student=GOLDEN["co_in_content_missing"], teacher=GOLDEN["co_in_content_full"], variant="official"
    )
    same(loss, "co_out_ep7_content_loss")


def logits_of(which: str) -> torch.Tensor:
    return torch.logit(GOLDEN[f"co_in_prob_{which}"].double()).float()


@pytest.mark.parametrize(
    ("prefix", "channels"), [("co", REGION_CHANNELS), ("co_divide", LABEL_CHANNELS)], ids=["co", "divide"]
)
def test_dice_and_consistency_channel_by_channel(prefix, channels):
    target, full, missing = (GOLDEN[f"co_in_{n}"] for n in ("target", "prob_full", "prob_missing"))
    for index, name in enumerate(channels):
        of_teacher = official_dice_losses(full, target)[index]
        same(of_teacher, f"{prefix}_out_ep7_{name}_dc_loss")
        if name == "bg":  # docs/fidelity.md: both are the teacher's Dice
            same(of_teacher, f"{prefix}_out_ep7_bg_miss_dc_loss")
            same(of_teacher, f"{prefix}_out_ep7_bg_mse_loss")
            continue
        same(official_dice_losses(missing, target)[index], f"{prefix}_out_ep7_{name}_miss_dc_loss")
        one = slice(index, index + 1)
        error = consistency_loss(
            student=logits_of("missing")[:, one], teacher=logits_of("full")[:, one], variant="official"
        )
        same(error, f"{prefix}_out_ep7_{name}_mse_loss")


def co_taps(which: str, channels: list[int]) -> NetworkTaps:
    return NetworkTaps(logits_of(which)[:, channels], {"content": GOLDEN[f"co_in_content_{which}"]})


def co_config() -> ObjectiveConfig:
    off = dict.fromkeys(("kl", "token_features", "attention", "adversarial"), 0.0)
    return ObjectiveConfig.official().with_weights(off)


# Heads as positions in the released order; nnU-Net has the background first, and regions have none.
@pytest.mark.parametrize(
    ("heads", "background", "prefix"),
    [([0, 1, 2], None, "co"), ([0, 1, 2, 3], -1, "co_divide"), ([3, 0, 1, 2], 0, "co_divide")],
    ids=["regions", "labels, background last", "labels, background first"],
)
@pytest.mark.parametrize("epoch", [0, 7, 20])
def test_the_whole_segmentation_objective(heads, background, prefix, epoch):
    """loss_Co: Dice of both, ramped consistency, content; "divide" with its background quirk."""
    objective = MSTKDObjective(
        co_config(), regions=background is None, variant="official", background_channel=background
    )
    result = objective(
        student=co_taps("missing", heads),
        teacher=co_taps("full", heads),
        target=GOLDEN["co_in_target"][:, heads],
        epoch=epoch,
        num_epochs=100,
        train_teacher=True,
    )
    same(result.total, f"{prefix}_out_ep{epoch}_loss_Co")
    if epoch == 7:
        same(result.terms["segmentation"], f"{prefix}_out_ep7_loss_miss_dc")
        same(result.terms["teacher_segmentation"], f"{prefix}_out_ep7_loss_dc")
        same(result.terms["consistency"], f"{prefix}_out_ep7_consistency_loss")
        same(result.terms["content"], f"{prefix}_out_ep7_content_loss")


def test_the_other_official_terms_pass_through_the_objective():
    off = dict.fromkeys(("segmentation", "teacher_segmentation", "consistency", "content"), 0.0)
    config = ObjectiveConfig.official().with_weights(off | {"gram": 1.0})
    objective = MSTKDObjective(config, regions=True, variant="official")

    def taps(role, gram_role):
        encoded, style, content = inputs(f"gs_in_{gram_role}", 3)
        inner = {
            "attention": inputs(f"evd_in_{role}", 4),
            "token_features": inputs(f"unetr_in_{role}", 4),
            "encoded": encoded,
            "style": style,
            "content": content,
        }
        return NetworkTaps(GOLDEN[f"slkd_in_{role}_logit"], inner)

    discriminator = torch.nn.Conv3d(6, 1, (4, 5, 3))
    result = objective(
        student=taps("student", "missing"),
        teacher=taps("teacher", "full"),
        target=None,
        epoch=50,
        num_epochs=100,
        style_discriminator=discriminator,
    )
    same(result.terms["attention"], "evd_out")
    same(result.terms["token_features"], "unetr_out")
    same(result.terms["kl"], "slkd_out_official_call_T7")
    same(result.terms["gram"], "gs_out")
    logit = discriminator(GOLDEN["gs_in_missing_1"])
    torch.testing.assert_close(
        result.terms["adversarial"], torch.nn.functional.softplus(logit).mean(), rtol=1e-5, atol=0
    )
    published = {"attention": 1e8, "token_features": 0.2, "kl": 1, "gram": 1, "adversarial": 0.0002}
    assert result.weights == pytest.approx(published)
