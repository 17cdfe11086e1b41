import math

import pytest
import torch
from fake_taps import randn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from nnunetv2_mstkd.losses.logits import consistency_loss, foreground_kl_loss, standardised_kl_loss

STUDENT, TEACHER = 3 * randn(2, 4, 5, 6, 7, seed=1), 3 * randn(2, 4, 5, 6, 7, seed=2)


def z_scores(logits):
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_labels_are_kl_from_teacher_to_student_over_classes(temperature):
    student, teacher = (
        Categorical(logits=(z_scores(x) / temperature).movedim(1, -1)) for x in (STUDENT, TEACHER)
    )
    expected = kl_divergence(teacher, student).mean() * temperature**2
    loss = standardised_kl_loss(student=STUDENT, teacher=TEACHER, temperature=temperature)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_regions_are_bernoulli_kl_of_raw_logits(temperature):
    student, teacher = (Bernoulli(logits=x / temperature) for x in (STUDENT, TEACHER))
    expected = kl_divergence(teacher, student).mean() * temperature**2
    loss = standardised_kl_loss(student=STUDENT, teacher=TEACHER, temperature=temperature, regions=True)
    torch.testing.assert_close(loss, expected)


def test_own_temperatures():
    for regions, temperature in ((False, 1.0), (True, 2.0)):
        given = standardised_kl_loss(
            student=STUDENT, teacher=TEACHER, regions=regions, temperature=temperature
        )
        assert given == standardised_kl_loss(student=STUDENT, teacher=TEACHER, regions=regions)


def test_labels_ignore_offset_and_scale_of_the_logits():
    loss = standardised_kl_loss(student=STUDENT, teacher=TEACHER)
    moved = standardised_kl_loss(student=5 * STUDENT - 3, teacher=0.5 * TEACHER + 7)
    torch.testing.assert_close(moved, loss, rtol=0.02, atol=0)


def test_two_classes_keep_their_confidence():
    """Standardised, two logits would keep only their sign."""
    student, teacher = torch.tensor([[[0.1], [-0.1]], [[4.0], [-4.0]]])[:, :, None].unbind(0)
    assert standardised_kl_loss(student=student[None], teacher=teacher[None]) > 0.1


@pytest.mark.parametrize("regions", [False, True])
def test_stays_finite_for_extreme_and_for_equal_logits(regions):
    for scale in (0.0, 1e-6, 1e4):
        student = (scale * STUDENT).requires_grad_()
        loss = standardised_kl_loss(student=student, teacher=-scale * TEACHER, regions=regions)
        loss.backward()
        assert math.isfinite(loss.detach())
        assert loss > -1e-8  # rounding, where both distributions are the same
        assert student.grad.isfinite().all()


def test_consistency_is_a_mean_over_everything():
    labels = (STUDENT.softmax(1) - TEACHER.softmax(1)).square().mean()
    regions = (STUDENT.sigmoid() - TEACHER.sigmoid()).square().mean()
    torch.testing.assert_close(consistency_loss(student=STUDENT, teacher=TEACHER), labels)
    torch.testing.assert_close(consistency_loss(student=STUDENT, teacher=TEACHER, regions=True), regions)


@pytest.mark.parametrize("background", [0, 3, -1])
def test_official_consistency_leaves_the_background_out(background):
    student = STUDENT.clone().requires_grad_()
    consistency_loss(
        student=student, teacher=TEACHER, variant="official", background_channel=background
    ).backward()
    touched = student.grad.abs().sum((0, 2, 3, 4)) > 0
    expected = torch.ones(4, dtype=torch.bool)
    expected[background] = False
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("regions", [True, False])
def test_foreground_kl_weighs_voxels_by_the_larger_foreground_probability(regions):
    ours, by_hand = (STUDENT.clone().requires_grad_() for _ in range(2))
    if regions:
        student, teacher = (Bernoulli(logits=x) for x in (by_hand, TEACHER))
        divergence = kl_divergence(teacher, student).mean(1)
        foreground = torch.stack((STUDENT, TEACHER)).sigmoid().amax((0, 2))
    else:
        student, teacher = (Categorical(logits=x.movedim(1, -1)) for x in (by_hand, TEACHER))
        divergence = kl_divergence(teacher, student)
        foreground = torch.stack((STUDENT, TEACHER)).softmax(2)[:, :, 1:].amax((0, 2))
    axes = (1, 2, 3)
    expected = ((foreground * divergence).sum(axes) / foreground.sum(axes)).mean()
    found = foreground_kl_loss(student=ours, teacher=TEACHER, regions=regions)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, by_hand.grad)


@pytest.mark.parametrize("regions", [True, False])
def test_foreground_kl_does_not_fall_with_the_background_around_it(regions):
    """Where both see background for sure, nothing is added and nothing is diluted."""
    background = torch.full((2, 4, 5, 6, 90), -30.0)
    if not regions:
        background[:, 0] = 30
    wide = [torch.cat((x, background), -1) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(
        foreground_kl_loss(student=wide[0], teacher=wide[1], regions=regions),
        foreground_kl_loss(student=STUDENT, teacher=TEACHER, regions=regions),
    )
