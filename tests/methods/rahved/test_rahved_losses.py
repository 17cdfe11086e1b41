"""RA-HVED's product of experts and losses: equal to the released code's numbers, and what they promise.

tests/data/rahved/losses_A.npz: inputs, values and gradients computed with github.com/ssjx10/RA-HVED, commit
23a1543, on CPU in float32. Values agree to a relative 1e-5, gradients to 1e-5 of the largest entry.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunetv2_mstkd.methods.rahved.losses import (
    adversarial_loss,
    discriminator_input,
    discriminator_loss,
    nested_map,
    prior_divergence,
    reconstruction_loss,
)
from nnunetv2_mstkd.methods.rahved.posterior import drawn, product_of_experts

DATA = Path(__file__).resolve().parents[2] / "data" / "rahved"
GOLDEN = {name: torch.from_numpy(np.asarray(a)) for name, a in np.load(DATA / "losses_A.npz").items()}
SUBSETS = ("0", "13", "023", "0123")
# The segmentation loss and the metric are nnU-Net's and the evaluation's own.
NOT_OURS = {
    "in/target",
    *(f"{kind}/dice{case}" for kind in ("out", "grad") for case in ("", "_empty_channel2")),
}


def is_golden(ours: torch.Tensor, name: str) -> None:
    expected = GOLDEN[f"out/{name}"]
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def has_golden_gradient(
    loss: torch.Tensor, name: str, *inputs: torch.Tensor, to: tuple[str, ...] = ("",)
) -> None:
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
    for gradient, suffix in zip(gradients, to, strict=True):
        expected = GOLDEN[f"grad/{name}{suffix}"]
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def given(name: str) -> torch.Tensor:
    return GOLDEN[f"in/{name}"].clone().requires_grad_(True)


def test_every_golden_array_is_compared():
    compared = {"in/pred", "in/recon", "in/recon_target", "in/d_out", "out/kl_plain", "out/nested_map"}
    compared |= {"out/recon_mse", "out/d_input", "out/lr_per_epoch"}
    compared |= {f"{kind}/lsgan_{side}" for kind in ("out", "grad") for side in ("real", "fake")}
    for what in ("mu0", "mu1", "logvar0", "logvar1"):
        compared |= {f"in/{what}", *(f"out/poe_{s}/{what}" for s in SUBSETS)}
        compared |= {f"grad/kld_{s}/{what}" for s in SUBSETS}
    compared |= {f"out/kld_{s}" for s in SUBSETS}
    rest = {name for name in GOLDEN if not name.startswith("out/metric_")} - compared
    assert rest == NOT_OURS
    assert compared <= GOLDEN.keys()


@pytest.mark.parametrize("subset", SUBSETS)
def test_product_and_divergence_equal_the_released_code(subset):
    means, log_variances = [given("mu0"), given("mu1")], [given("logvar0"), given("logvar1")]
    present = torch.tensor([str(m) in subset for m in range(4)]).expand(2, 4)
    pairs = zip(means, log_variances, strict=True)
    products = [product_of_experts(mean, log_variance, present) for mean, log_variance in pairs]
    for level, (mean, log_variance) in enumerate(products):
        is_golden(mean, f"poe_{subset}/mu{level}")
        is_golden(log_variance, f"poe_{subset}/logvar{level}")
    product_means, product_log_variances = zip(*products, strict=True)
    loss = prior_divergence(means=product_means, log_variances=product_log_variances)
    is_golden(loss, f"kld_{subset}")
    names = ("/mu0", "/mu1", "/logvar0", "/logvar1")
    has_golden_gradient(loss, f"kld_{subset}", *means, *log_variances, to=names)


def test_divergence_of_one_gaussian_equals_the_released_code():
    is_golden(prior_divergence(means=[given("mu0")], log_variances=[given("logvar0")]), "kl_plain")


def test_adversarial_losses_equal_the_released_code():
    judged, nothing = given("d_out"), torch.zeros(1)
    as_full = adversarial_loss(missing=judged)
    is_golden(as_full, "lsgan_real")
    has_golden_gradient(as_full, "lsgan_real", judged)
    as_missing = 2 * discriminator_loss(missing=judged, full=nothing + 1)
    is_golden(as_missing, "lsgan_fake")
    has_golden_gradient(as_missing, "lsgan_fake", judged)
    is_golden(2 * discriminator_loss(missing=nothing, full=judged), "lsgan_real")


def test_what_the_discriminator_sees_equals_the_released_code():
    probabilities, reconstruction = given("pred"), given("recon")
    is_golden(nested_map(probabilities=probabilities, regions=True), "nested_map")
    judged = discriminator_input(probabilities=probabilities, reconstruction=reconstruction, regions=True)
    is_golden(judged, "d_input")
    # The segmentation is judged as it is, and does not learn from how it brightens the images.
    to_probabilities, to_reconstruction = torch.autograd.grad(judged.sum(), (probabilities, reconstruction))
    assert (to_probabilities == 1).all()
    emphasis = 1 + GOLDEN["out/nested_map"]
    torch.testing.assert_close(to_reconstruction, emphasis.expand_as(reconstruction))


def test_reconstruction_equals_the_released_code():
    images = GOLDEN["in/recon_target"]
    is_golden(reconstruction_loss(reconstruction=given("recon"), images=images), "recon_mse")
    known = torch.ones(2, 4, dtype=torch.bool)
    is_golden(reconstruction_loss(reconstruction=given("recon"), images=images, known=known), "recon_mse")


def test_learning_rates_are_those_of_nnunet():
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=1e-4)
    schedule = PolyLRScheduler(optimizer, 1e-4, 360)
    rates = []
    for epoch in range(360):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    is_golden(torch.tensor(rates), "lr_per_epoch")


def test_images_that_a_case_lacks_are_not_compared():
    reconstruction, images = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    known = torch.tensor([[True, False, True], [True, False, False]])
    loss = reconstruction_loss(reconstruction=reconstruction, images=images, known=known)
    expected = (reconstruction - images)[known].square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not reconstruction.grad[~known].any()
    assert reconstruction_loss(reconstruction=reconstruction, images=images, known=known & False) == 0


def test_an_absent_expert_has_no_say():
    means, log_variances = (torch.randn(2, 3, 4, 5, 6, requires_grad=True) for _ in range(2))
    present = torch.tensor([[True, False, True], [False, False, False]])
    mean, log_variance = product_of_experts(means, log_variances, present)
    product_of_two = product_of_experts(means[:1, ::2], log_variances[:1, ::2], present[:1, ::2])
    torch.testing.assert_close((mean[:1], log_variance[:1]), product_of_two)
    assert not mean[1].any()  # the prior alone
    assert not log_variance[1].any()
    (mean.sum() + log_variance.sum()).backward()
    assert not means.grad[~present].any()
    assert not log_variances.grad[~present].any()


def test_the_product_is_full_precision_under_autocast():
    means, log_variances = (torch.randn(1, 2, 4, 8, 8).bfloat16() for _ in range(2))
    present = torch.ones(1, 2, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        product = product_of_experts(means, log_variances, present)
    expected = product_of_experts(means.double(), log_variances.double(), present)
    torch.testing.assert_close([p.double() for p in product], list(expected), rtol=1e-6, atol=1e-6)


def test_samples_have_the_moments_of_the_gaussian():
    torch.manual_seed(0)
    sample = drawn(torch.full((100_000,), 3.0), torch.full((100_000,), 4.0).log())
    assert sample.mean() == pytest.approx(3, abs=0.05)
    assert sample.std() == pytest.approx(2, abs=0.05)


def test_the_map_of_labels_is_the_likeliest_label_where_it_is_sure():
    probabilities = torch.tensor([[[0.6, 0.1, 0.5], [0.3, 0.8, 0.2]]])[..., None]
    found = nested_map(probabilities=probabilities, regions=False)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.6, 0.8, 0.0]))
