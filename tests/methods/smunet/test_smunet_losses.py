"""SMU-Net's losses: values and gradients of the released code, one training step, the released size.

Of the golden losses only ``score_smooth1``, a score of the evaluation, is not compared.
"""

from __future__ import annotations

import pytest
import torch
from smunet_golden import LOSSES, NETWORK, SHAPES, assert_same, labels, normal, weights
from torch import Tensor

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.losses.co_training import RAMP_EPOCHS, mutual_consistency_loss
from nnunetv2_mstkd.losses.schedules import sigmoid_rampup
from nnunetv2_mstkd.losses.style import (
    official_gram,
    style_adversarial_loss,
    style_discriminator_loss,
)
from nnunetv2_mstkd.methods.mstkd.official_dice import official_dice_losses
from nnunetv2_mstkd.methods.smunet.losses import WEIGHTS, content_loss, style_loss
from nnunetv2_mstkd.methods.smunet.network import released
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases

FOREGROUND = ("ed", "net", "et")


def same(ours: Tensor, name: str, golden: dict[str, Tensor] = LOSSES, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(
        ours.detach().double().reshape(golden[name].shape), golden[name].double(), rtol=rtol, atol=0
    )


def same_gradient(ours: Tensor | None, name: str, tolerance: float = 1e-5) -> None:
    assert ours is not None
    golden = LOSSES[name].double()
    torch.testing.assert_close(ours.double(), golden, rtol=0, atol=tolerance * float(golden.abs().max()))


def dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """Released Dice of the foreground channels (3,); the trainers take nnU-Net's instead."""
    return official_dice_losses(probabilities, target)[:3]


def released_terms(
    student: dict[str, Tensor], teacher: dict[str, Tensor], target: Tensor
) -> dict[str, Tensor]:
    """Every term but the adversarial one, unweighted, from logits, style and content."""
    logits = [taps["logits"][:, :3] for taps in (student, teacher)]
    return {
        "segmentation": dice(student["logits"].sigmoid(), target).sum(),
        "teacher_segmentation": dice(teacher["logits"].sigmoid(), target).sum(),
        "consistency": mutual_consistency_loss(student=logits[0], teacher=logits[1], regions=True),
        "content": content_loss(student=student["content"], teacher=teacher["content"]),
        "style": style_loss(student=student["style"], teacher=teacher["style"]),
    }


def weighted(terms: dict[str, Tensor], epoch: int) -> Tensor:
    ramp = {"consistency": sigmoid_rampup(epoch, RAMP_EPOCHS)}
    return torch.stack([WEIGHTS[name] * ramp.get(name, 1) * value for name, value in terms.items()]).sum()


def loss_inputs() -> dict[str, Tensor]:
    # float64: what is golden are probabilities, and our losses take logits.
    names = [f"{kind}_{role}" for kind in ("pred", "content", "style") for role in ("full", "missing")]
    return {name: LOSSES[f"in/{name}"].double().requires_grad_() for name in names}


def of(role: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "logits": inputs[f"pred_{role}"].logit(),
        "content": inputs[f"content_{role}"],
        "style": inputs[f"style_{role}"],
    }


@pytest.mark.parametrize("epoch", [0, 10, 20, 100])
def test_the_whole_loss_and_its_gradients(epoch):
    inputs = loss_inputs()
    terms = released_terms(of("missing", inputs), of("full", inputs), LOSSES["in/target"].double())
    loss = weighted(terms, epoch)
    same(loss, f"out/loss_Co_epoch{epoch}")
    if epoch in (0, 20):
        loss.backward()
        for name, tensor in inputs.items():
            tolerance = 1e-3 if name.startswith("style") else 1e-5
            same_gradient(tensor.grad, f"grad/loss_Co_epoch{epoch}/{name}", tolerance)


def test_every_term():
    inputs, target = loss_inputs(), LOSSES["in/target"].double()
    student, teacher = of("missing", inputs), of("full", inputs)
    terms = released_terms(student, teacher, target)
    same(terms["segmentation"], "out/loss_miss_dc")
    same(terms["teacher_segmentation"], "out/loss_dc")
    same(terms["consistency"], "out/consistency_loss")
    same(terms["content"], "out/content_loss")
    of_student, of_teacher = (dice(taps["logits"].sigmoid(), target) for taps in (student, teacher))
    for i, name in enumerate(FOREGROUND):
        same(of_teacher[i], f"out/{name}_dc_loss")
        same(of_student[i], f"out/{name}_miss_dc_loss")
        one = {"student": student["logits"][:, i : i + 1], "teacher": teacher["logits"][:, i : i + 1]}
        same(mutual_consistency_loss(**one, regions=True), f"out/{name}_mse_loss")


def test_dice_of_one_channel():
    p = LOSSES["in/pred_full"][:, 1:2].clone().requires_grad_()
    target = LOSSES["in/target"][:, 1:2]
    loss = official_dice_losses(p, target).sum()
    same(loss, "out/dice_channel1")
    loss.backward()
    same_gradient(p.grad[:, 0], "grad/dice_channel1")
    same(official_dice_losses(p, 0 * target), "out/dice_empty_target")


def test_the_style_loss_and_its_gradients():
    student, teacher = (LOSSES[f"in/style_{role}"].clone().requires_grad_() for role in ("missing", "full"))
    same(official_gram(teacher, teacher), "out/gram_style_full")
    loss = style_loss(student=student, teacher=teacher)
    same(loss, "out/style_loss", rtol=1e-4)
    loss.backward()
    same_gradient(student.grad, "grad/style_loss/style_missing", 1e-3)
    same_gradient(teacher.grad, "grad/style_loss/style_full", 1e-3)


def test_the_game_on_the_style():
    logits = LOSSES["in/d_logits"].clone().requires_grad_()
    loss = style_adversarial_loss(student=logits)
    same(loss, "out/bce_label0")
    loss.backward()
    same_gradient(logits.grad, "grad/bce_label0")
    logits.grad = None
    of_missing = style_discriminator_loss(student=logits, teacher=torch.full_like(logits, -100.0))
    same(of_missing, "out/bce_label1")
    of_missing.backward()
    same_gradient(logits.grad, "grad/bce_label1")


def learning_rates(epochs):
    """Of the trainer's schedule, epoch by epoch."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1e-4)
    scheduler, rates = PhasedPolyLRScheduler(optimizer, 1e-4, Phases(epochs, 0), lead=1), []
    for epoch in range(epochs):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_schedules():
    ramp = [WEIGHTS["consistency"] * sigmoid_rampup(epoch, RAMP_EPOCHS) for epoch in range(31)]
    same(torch.tensor(ramp), "out/ramp_epochs_0_to_30")
    rates = torch.tensor(learning_rates(250), dtype=torch.float64)
    torch.testing.assert_close(rates, LOSSES["out/lr_per_epoch"].double(), rtol=1e-5, atol=1e-12)


def networks(patch):
    pair = {}
    for part, channels in (("full", 4), ("missing", 1)):
        pair[part] = released(patch, channels).train()
        pair[part].load_released_state_dict(weights(part, SHAPES[part]))
        pair[part].dropout.p = 0.0
    return pair["missing"], pair["full"]


def step_terms(student, teacher, x: Tensor, target: Tensor):
    """Unweighted terms of a training step, and what the two networks showed."""
    shown = []
    for network, seen in ((student, x[:, :1]), (teacher, x)):
        taps = network(seen, return_taps=True)
        shown.append({"logits": taps.logits, **taps.inner})
    return released_terms(*shown, target), *shown


def test_one_training_step():
    student, teacher = networks((32, 48, 40))
    target = labels("label", (1, 1, 32, 48, 40))
    terms, of_student, of_teacher = step_terms(student, teacher, normal("input", (1, 4, 32, 48, 40)), target)
    golden = {
        "segmentation": "loss_miss_dc",
        "teacher_segmentation": "loss_dc",
        "consistency": "consistency_loss",
        "content": "content_loss",
        "style": "style_loss",
    }
    for term, name in golden.items():
        same(terms[term], f"step/{name}", NETWORK, rtol=1e-4 if term == "style" else 1e-5)
    per_channel = dice(of_student["logits"].sigmoid(), target), dice(of_teacher["logits"].sigmoid(), target)
    for i, name in enumerate(FOREGROUND):
        same(per_channel[0][i], f"step/{name}_miss_dc_loss", NETWORK)
        same(per_channel[1][i], f"step/{name}_dc_loss", NETWORK)
        error = of_student["logits"][:, i].sigmoid() - of_teacher["logits"][:, i].sigmoid()
        same(error.square().mean(), f"step/{name}_mse_loss", NETWORK)
    for epoch in (0, 10, 25):
        same(weighted(terms, epoch), f"step/loss_Co_epoch{epoch}", NETWORK)
    weighted(terms, 25).backward()
    for part, network in (("full", teacher), ("missing", student)):
        names = {theirs: ours for ours, theirs in network.released_names().items()}
        norms = [network.get_parameter(names[key]).grad.double().norm() for key in SHAPES[part]]
        same(torch.stack(norms), f"step/grad_norm_{part}", NETWORK, rtol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_the_whole_step_at_the_released_size():
    patch = (160, 192, 128)
    student, teacher = networks(patch)
    x, target = normal("input_released", (1, 4, *patch)), labels("label_released", (1, *patch))
    terms, of_student, of_teacher = step_terms(student, teacher, x, target)
    golden = {
        "segmentation": "loss_miss_dc",
        "teacher_segmentation": "loss_dc",
        "consistency": "consistency_loss",
        "content": "content_loss",
        "style": "style_loss",
    }
    for term, name in golden.items():
        same(terms[term], f"released/{name}", NETWORK, rtol=1e-4 if term == "style" else 1e-5)
    assert_same(of_teacher["logits"].sigmoid(), "released/output_full")
    assert_same(of_student["logits"].sigmoid(), "released/output_missing")
    discriminator = StyleDiscriminator.official()
    discriminator.load_released_state_dict(weights("d_style", SHAPES["d_style"]))
    judged = {"full": discriminator(of_teacher["style"]), "missing": discriminator(of_student["style"])}
    for role, logit in judged.items():
        torch.testing.assert_close(logit, NETWORK[f"released/d_out_{role}"], rtol=1e-4, atol=1e-5)
    adversarial = WEIGHTS["adversarial"] * style_adversarial_loss(student=judged["missing"])
    same(adversarial, "released/adversarial", NETWORK, rtol=1e-4)
    same(weighted(terms, 10), "released/loss_Co_epoch10", NETWORK)
    same(weighted(terms, 10) + adversarial, "released/total_network", NETWORK)
    of_discriminator = style_discriminator_loss(student=judged["missing"], teacher=judged["full"])
    same(of_discriminator, "released/total_discriminator", NETWORK, rtol=1e-4)
