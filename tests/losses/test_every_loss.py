"""What holds for every loss that compares a student with a teacher."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from fake_taps import fake_taps

from nnunetv2_mstkd.losses.features import content_loss, token_feature_loss
from nnunetv2_mstkd.losses.logits import consistency_loss, foreground_kl_loss, standardised_kl_loss
from nnunetv2_mstkd.losses.style import gram_matching_loss
from nnunetv2_mstkd.methods.mstkd.attention import attention_extremes_loss

# name -> (loss, tensors of the taps that it compares)
LOSSES = {
    "attention": (attention_extremes_loss, lambda t: t.inner["attention"]),
    "token_features": (token_feature_loss, lambda t: t.inner["token_features"]),
    "content": (content_loss, lambda t: t.inner["content"]),
    "gram": (gram_matching_loss, lambda t: [t.inner[n] for n in ("encoded", "style", "content")]),
    "kl, labels": (standardised_kl_loss, lambda t: t.logits),
    "kl, regions": (partial(standardised_kl_loss, regions=True), lambda t: t.logits),
    "consistency, labels": (consistency_loss, lambda t: t.logits),
    "consistency, regions": (partial(consistency_loss, regions=True), lambda t: t.logits),
}
# Without an official variant.
OURS = {
    "foreground kl, labels": (foreground_kl_loss, lambda t: t.logits),
    "foreground kl, regions": (partial(foreground_kl_loss, regions=True), lambda t: t.logits),
}
default_of_every_loss = pytest.mark.parametrize(
    ("loss", "select"), [*LOSSES.values(), *OURS.values()], ids=[*LOSSES, *OURS]
)
every_loss = pytest.mark.parametrize(("loss", "select"), LOSSES.values(), ids=LOSSES)
both_variants = pytest.mark.parametrize("variant", ["default", "official"])
both_dims = pytest.mark.parametrize("dims", [2, 3])


def as_list(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def like(value, tensors):
    return tensors[0] if isinstance(value, torch.Tensor) else tensors


@every_loss
@both_variants
@both_dims
def test_zero_at_equality_and_positive_elsewhere(loss, select, variant, dims):
    one, other = fake_taps(1, dims=dims), fake_taps(2, dims=dims)
    same = loss(student=select(one), teacher=select(one), variant=variant)
    different = loss(student=select(one), teacher=select(other), variant=variant)
    assert same.shape == different.shape == ()
    # Official KL leaves rounding of about 1e-10; everything else is exact.
    assert same.detach().abs() <= 1e-4 * different.detach()
    assert different > 0


@default_of_every_loss
@both_dims
def test_default_sends_gradients_to_the_student_alone(loss, select, dims):
    student, teacher = fake_taps(1, dims=dims), fake_taps(2, dims=dims)
    loss(student=select(student), teacher=select(teacher)).backward()
    assert all(t.grad.abs().sum() > 0 for t in as_list(select(student)))
    assert all(t.grad is None for t in as_list(select(teacher)))


@every_loss
def test_official_detaches_nothing(loss, select):
    student, teacher = fake_taps(1), fake_taps(2)
    loss(student=select(student), teacher=select(teacher), variant="official").backward()
    assert all(t.grad.abs().sum() > 0 for t in as_list(select(student)) + as_list(select(teacher)))


@default_of_every_loss
def test_default_of_a_batch_is_the_mean_of_its_samples(loss, select):
    student, teacher = (select(fake_taps(seed, batch=3)) for seed in (1, 2))
    whole = loss(student=student, teacher=teacher)
    for order in ([0, 1, 2], [2, 0, 1]):
        singles = [
            loss(
                student=like(student, [t[i : i + 1] for t in as_list(student)]),
                teacher=like(teacher, [t[i : i + 1] for t in as_list(teacher)]),
            )
            for i in order
        ]
        torch.testing.assert_close(torch.stack(singles).mean(), whole)


@every_loss  # the foreground's weights depend on the student, and have no gradient
def test_default_gradient_is_that_of_finite_differences(loss, select):
    student, teacher = (fake_taps(seed, batch=1, dims=2, requires_grad=False) for seed in (1, 2))
    values = select(student)
    tensors = [t.double().requires_grad_() for t in as_list(values)]
    target = like(values, [t.double() for t in as_list(select(teacher))])
    assert torch.autograd.gradcheck(
        lambda *s: loss(student=like(values, list(s)), teacher=target), tensors, fast_mode=True
    )
