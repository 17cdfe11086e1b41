"""Mutual consistency: labels and regions."""

from __future__ import annotations

import torch

from nnunetv2_mstkd.losses.co_training import mutual_consistency_loss


def test_regions_are_sigmoids_and_labels_leave_the_background_out():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    by_region = [(student[:, c].sigmoid() - teacher[:, c].sigmoid()).square().mean() for c in range(3)]
    loss = mutual_consistency_loss(student=student, teacher=teacher, regions=True)
    torch.testing.assert_close(loss, torch.stack(by_region).sum())
    by_label = [(student.softmax(1) - teacher.softmax(1))[:, c].square().mean() for c in (1, 2)]
    loss = mutual_consistency_loss(student=student, teacher=teacher, regions=False)
    torch.testing.assert_close(loss, torch.stack(by_label).sum())


def test_a_gradient_reaches_both():
    student, teacher = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    mutual_consistency_loss(student=student, teacher=teacher, regions=True).backward()
    torch.testing.assert_close(
        student.grad.sign() * (student > teacher).float().mul(2).sub(1), torch.ones_like(student)
    )
    torch.testing.assert_close(
        teacher.grad.sign() * (teacher > student).float().mul(2).sub(1), torch.ones_like(teacher)
    )


def test_half_precision_is_computed_in_float32():
    logits = torch.randn(2, 2, 4, 4).half()
    assert mutual_consistency_loss(student=logits, teacher=-logits, regions=False).dtype == torch.float32
