"""ACN's losses: values and gradients of the released code, and one training step.

Of the golden losses only ``softmax_mse``, which nothing calls there, is not compared.
"""

from __future__ import annotations

import math

import pytest
import torch
from acn_golden import LOSSES, NETWORK, SHAPES, assert_same, labels, normal, weights
from torch import Tensor

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.losses.co_training import RAMP_EPOCHS, mutual_consistency_loss
from nnunetv2_mstkd.losses.schedules import sigmoid_rampup
from nnunetv2_mstkd.losses.style import style_adversarial_loss
from nnunetv2_mstkd.methods.acn.discriminators import entropy_discriminator, feature_discriminator
from nnunetv2_mstkd.methods.acn.losses import (
    WEIGHTS,
    discriminator_loss,
    entropy_map,
    kl_consistency_loss,
    knowledge_transfer_loss,
    reconstruction_loss,
)
from nnunetv2_mstkd.methods.acn.network import Regressor, released
from nnunetv2_mstkd.methods.mstkd.official_dice import official_dice_losses
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases

FOREGROUND = ("ed", "net", "et")
PATCH = (32, 48, 64)


def same(ours: Tensor, name: str, golden: dict[str, Tensor] = LOSSES, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(
        ours.detach().double().reshape(golden[name].shape), golden[name].double(), rtol=rtol, atol=0
    )


def same_gradient(ours: Tensor | None, name: str) -> None:
    assert ours is not None
    golden = LOSSES[name].double()
    torch.testing.assert_close(ours.double(), golden, rtol=0, atol=1e-5 * float(golden.abs().max()))


def leaf(name: str) -> Tensor:
    return LOSSES[f"in/{name}"].clone().requires_grad_()


def dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """Released Dice of the foreground channels (3,); the trainers take nnU-Net's instead."""
    return official_dice_losses(probabilities, target)[:3]


def weighted(terms: dict[str, Tensor], epoch: int) -> Tensor:
    ramp = {"consistency": sigmoid_rampup(epoch, RAMP_EPOCHS)}
    return torch.stack([WEIGHTS[name] * ramp.get(name, 1) * value for name, value in terms.items()]).sum()


def co_terms(student: Tensor, teacher: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Dice and consistency from logits in the released order, background last."""
    foreground = {"student": student[:, :3], "teacher": teacher[:, :3]}
    return {
        "segmentation": dice(student.sigmoid(), target).sum(),
        "teacher_segmentation": dice(teacher.sigmoid(), target).sum(),
        "consistency": mutual_consistency_loss(**foreground, regions=True),
    }


@pytest.mark.parametrize(("kind", "epoch"), [("mse", 0), ("mse", 10), ("mse", 20), ("mse", 100), ("kl", 20)])
def test_the_whole_loss_and_its_gradients(kind, epoch):
    # float64: what is golden are probabilities, and our losses take logits.
    student, teacher = (LOSSES[f"in/pred_{role}"].double().requires_grad_() for role in ("mono", "full"))
    terms = co_terms(student.logit(), teacher.logit(), LOSSES["in/target"].double())
    if kind == "kl":
        terms["consistency"] = kl_consistency_loss(student=student, teacher=teacher)
    loss = weighted(terms, epoch)
    same(loss, f"out/loss_Co_{kind}_epoch{epoch}")
    loss.backward()
    for role, tensor in {"mono": student, "full": teacher}.items():
        name = f"grad/loss_Co_{kind}_epoch{epoch}/pred_{role}"
        if name in LOSSES:
            same_gradient(tensor.grad, name)


def test_every_term():
    student, teacher = (LOSSES[f"in/pred_{role}"].double() for role in ("mono", "full"))
    target = LOSSES["in/target"].double()
    terms = co_terms(student.logit(), teacher.logit(), target)
    same(terms["segmentation"], "out/loss_mono_dc")
    same(terms["teacher_segmentation"], "out/loss_dc")
    same(terms["consistency"], "out/consistency_loss")
    same(kl_consistency_loss(student=student, teacher=teacher), "out/consistency_loss_kl")
    same(kl_consistency_loss(student=teacher, teacher=student), "out/softmax_kl_mean")
    for i, name in enumerate(FOREGROUND):
        same(dice(teacher, target)[i], f"out/{name}_dc_loss")
        same(dice(student, target)[i], f"out/{name}_mono_dc_loss")
        one = {"student": student[:, i : i + 1].logit(), "teacher": teacher[:, i : i + 1].logit()}
        same(mutual_consistency_loss(**one, regions=True), f"out/{name}_mse_loss")
    same(dice(teacher, target)[1], "out/dice_channel1")


@pytest.mark.parametrize(("which", "feature"), [("released", "mono"), ("teacher_target", "full")])
def test_knowledge_transfer_from_either_target(which, feature):
    inputs = {
        "prediction": leaf("vid_mean"),
        "log_scale": leaf("vid_log_scale"),
        "target": leaf(f"feature_{feature}"),
    }
    loss = knowledge_transfer_loss(**inputs)
    same(loss, f"out/mi_{which}")
    loss.backward()
    same_gradient(inputs["target"].grad, f"grad/mi_{which}/target")
    same_gradient(inputs["prediction"].grad, f"grad/mi_{which}/vid_mean")
    same_gradient(inputs["log_scale"].grad, f"grad/mi_{which}/vid_log_scale")


def test_knowledge_transfer_takes_a_scale_per_sample():
    prediction, log_scale, target = (
        torch.randn(2, 3, 4, 4),
        torch.randn(3),
        torch.randn(2, 3, 4, 4),
    )
    one = knowledge_transfer_loss(prediction=prediction, log_scale=log_scale, target=target)
    each = knowledge_transfer_loss(prediction=prediction, log_scale=log_scale.expand(2, -1), target=target)
    torch.testing.assert_close(one, each)


def test_the_regressor():
    layers = Layers(torch.nn.Conv3d, torch.nn.GroupNorm, {"num_groups": 8}, torch.nn.ReLU)
    regressor = Regressor(layers, 8)
    shapes = {f"regressor.{i}.weight": [8, 8, 1, 1, 1] for i in (0, 2, 4)}
    values = weights("loss/vid", shapes)
    regressor.layers.load_state_dict({key.removeprefix("regressor."): w for key, w in values.items()})
    prediction, _ = regressor(LOSSES["in/feature_mono"])
    expected = LOSSES["out/vid_mean"]
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_entropy_maps():
    student, teacher = leaf("pred_mono"), LOSSES["in/pred_full"]
    of_student = entropy_map(probabilities=student)
    same(of_student, "out/entropy_softmax_pred_mono")
    same(entropy_map(probabilities=teacher), "out/entropy_softmax_pred_full")
    same(entropy_map(probabilities=teacher, twice=False), "out/entropy_plain_pred_full")
    (LOSSES["in/entropy_weight"] * of_student).sum().backward()
    same_gradient(student.grad, "grad/entropy_softmax_pred_mono")
    assert bool(entropy_map(probabilities=torch.rand(1, 1, 3, 3)).isfinite().all())


def test_the_game_of_a_discriminator():
    logits = leaf("d_logits")
    loss = style_adversarial_loss(student=logits)
    same(loss, "out/bce_label0")
    loss.backward()
    same_gradient(logits.grad, "grad/bce_label0")
    logits.grad = None
    of_student = 2 * discriminator_loss(student=logits, teacher=torch.full_like(logits, -100.0))
    same(of_student, "out/bce_label1")
    of_student.backward()
    same_gradient(logits.grad, "grad/bce_label1")


def test_the_autoencoders_loss():
    inputs = {"reconstruction": leaf("recon"), "code_mean": leaf("mu"), "code_log_variance": leaf("logvar")}
    loss = reconstruction_loss(**inputs, image=LOSSES["in/recon_target"])
    expected = LOSSES["out/vae_recon_mse"] + LOSSES["out/vae_kld_sum"]
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=0)
    exact = reconstruction_loss(
        **{**inputs, "reconstruction": LOSSES["in/recon_target"]}, image=LOSSES["in/recon_target"]
    )
    same(exact, "out/vae_kld_sum")
    loss.backward()
    for ours, theirs in zip(inputs.values(), ("recon", "mu", "logvar"), strict=True):
        same_gradient(ours.grad, f"grad/vae/{theirs}")


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
    rates = torch.tensor(learning_rates(300), dtype=torch.float64)
    torch.testing.assert_close(rates, LOSSES["out/lr_per_epoch"].double(), rtol=1e-5, atol=1e-12)


def networks():
    pair = {}
    for part, channels in (("full", 4), ("mono", 1)):
        pair[part] = released(PATCH, channels)  # the code's mean: noise 0, as in the golden step
        pair[part].load_released_state_dict(weights(part, SHAPES[part]))
    return pair["mono"], pair["full"]


def discriminators():
    judges = {"main": entropy_discriminator(4, PATCH), "feature": feature_discriminator(128, (4, 6, 8))}
    for part, judge in judges.items():
        judge.load_released_state_dict(weights(f"d_{part}", SHAPES[f"d_{part}"]))
    return judges


def test_one_training_step():
    student, teacher = networks()
    judges = discriminators()
    x, target = normal("input", (1, 4, *PATCH)), labels("label", (1, *PATCH))
    asked = {"mono": ["prediction"], "full": ["bottleneck"]}
    taps = {"mono": student(x[:, 3:], asked["mono"]), "full": teacher(x, asked["full"])}
    terms = co_terms(taps["mono"].logits, taps["full"].logits, target)
    check_segmentation(taps, terms, target)

    inner = taps["mono"].inner
    guess = {"prediction": inner["prediction"], "log_scale": inner["log_scale"]}
    same(
        knowledge_transfer_loss(**guess, target=taps["full"].inner["bottleneck"]),
        "step/mi_teacher_target",
        NETWORK,
    )
    terms["knowledge_transfer"] = knowledge_transfer_loss(**guess, target=inner["bottleneck"])
    same(terms["knowledge_transfer"], "step/mi_released", NETWORK)

    judged = {role: entropy_map(probabilities=t.logits.sigmoid()) for role, t in taps.items()}
    for role, entropy in judged.items():
        assert_same(entropy, f"step/entropy_{role}")
    terms["adversarial_entropy"] = style_adversarial_loss(student=judges["main"](judged["mono"]))
    terms["adversarial_features"] = style_adversarial_loss(student=judges["feature"](inner["bottleneck"]))
    same(terms["adversarial_entropy"], "step/adversarial_entropy", NETWORK)
    same(terms["adversarial_features"], "step/adversarial_feature", NETWORK)
    total = weighted(terms, 25)
    same(total, "step/total_networks_epoch25", NETWORK)
    total.backward()
    check_gradients(student, "mono", student.released_names())
    check_gradients(teacher, "full", teacher.released_names())
    check_discriminators(judges, judged, {role: t.inner["bottleneck"] for role, t in taps.items()})


def check_segmentation(taps, terms, target) -> None:
    same(terms["segmentation"], "step/loss_mono_dc", NETWORK)
    same(terms["teacher_segmentation"], "step/loss_dc", NETWORK)
    same(terms["consistency"], "step/consistency_loss", NETWORK)
    full, mono = (taps[role].logits.sigmoid() for role in ("full", "mono"))
    for i, name in enumerate(FOREGROUND):
        same(dice(full, target)[i], f"step/{name}_dc_loss", NETWORK)
        same(dice(mono, target)[i], f"step/{name}_mono_dc_loss", NETWORK)
        same((full - mono)[:, i].square().mean(), f"step/{name}_mse_loss", NETWORK)
    for epoch in (0, 10, 25):
        same(weighted(terms, epoch), f"step/loss_Co_epoch{epoch}", NETWORK)


def check_gradients(module, part: str, names: dict[str, str]) -> None:
    """Gradient norms in the authors' order, NaN where no gradient comes."""
    ours = {theirs: key for key, theirs in names.items()}
    gradients = [module.get_parameter(ours[key]).grad for key in SHAPES[part]]
    norms = [math.nan if g is None else float(g.double().norm()) for g in gradients]
    expected = NETWORK[f"step/grad_norm_{part}"].double()
    torch.testing.assert_close(
        torch.tensor(norms, dtype=torch.float64), expected, rtol=1e-3, atol=0, equal_nan=True
    )


def check_discriminators(judges, entropies, bottlenecks) -> None:
    total = torch.zeros(())
    for part, judged in {"main": entropies, "feature": bottlenecks}.items():
        judges[part].zero_grad()
        logits = {role: judges[part](tensor.detach()) for role, tensor in judged.items()}
        for role, of_role in logits.items():
            assert_same(of_role, f"step/d_{part}_{role}")
        loss = discriminator_loss(student=logits["mono"], teacher=logits["full"])
        loss.backward()
        check_gradients(
            judges[part], f"d_{part}", {k: k.removeprefix("layers.") for k in judges[part].state_dict()}
        )
        total = total + loss.detach()
    same(total, "step/total_discriminators", NETWORK)
