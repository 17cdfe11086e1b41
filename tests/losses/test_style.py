import pytest
import torch
from fake_taps import randn
from torch import nn

from nnunetv2_mstkd.losses.style import (
    _cross_grams,
    discriminator_loss_on_styles,
    gram_matching_loss,
    style_adversarial_loss,
    style_discriminator_loss,
)


def maps(seed, batch=2, channels=6, size=(5, 4, 3)):
    return [randn(batch, channels, *size, seed=10 * seed + i) for i in range(3)]


def test_gram_matrices_by_hand():
    """Pairs (0, last), (1, 0), (2, 1); mean product over positions of maps with unit RMS, per channel."""
    features = maps(1)
    unit = [f / f.square().mean((1, 2, 3, 4), keepdim=True).sqrt() for f in features]
    for index, gram in enumerate(_cross_grams(features)):
        by_hand = torch.einsum("bcxyz,bdxyz->bcd", unit[index], unit[index - 1]) / (6 * 5 * 4 * 3)
        torch.testing.assert_close(gram, by_hand)


def test_norm_of_a_gram_matrix_reaches_one_for_identical_channels_and_not_more():
    one_pattern = randn(1, 1, 8, 8, seed=1).expand(-1, 6, -1, -1)
    (gram,) = _cross_grams([one_pattern])
    assert float(gram.norm()) == pytest.approx(1, rel=1e-5)
    assert all(gram.norm() < 1 for gram in _cross_grams(maps(2)))


def test_loss_reaches_its_bound_of_one_when_every_product_changes_sign():
    pattern = randn(1, 1, 8, 8, seed=1).expand(-1, 6, -1, -1)
    # Of the two pairs (0, 1) and (1, 0) both change sign.
    loss = gram_matching_loss(student=[pattern, -pattern], teacher=[pattern, pattern])
    assert float(loss) == pytest.approx(1, rel=1e-5)


def test_no_scale_of_features_and_no_number_of_positions():
    student, teacher = maps(1), maps(2)
    loss = gram_matching_loss(student=student, teacher=teacher)
    louder = gram_matching_loss(student=[1e4 * m for m in student], teacher=[1e-4 * m for m in teacher])
    torch.testing.assert_close(louder, loss)
    larger = [[m.repeat(1, 1, 2, 3, 1) for m in side] for side in (student, teacher)]
    torch.testing.assert_close(gram_matching_loss(student=larger[0], teacher=larger[1]), loss)


def test_default_acts_where_the_released_scale_does_not():
    size = (10, 12, 8)
    student, teacher = maps(1, 1, 32, size), maps(2, 1, 32, size)
    values, gradients = {}, {}
    for variant in ("default", "official"):
        leaf = [m.clone().requires_grad_() for m in student]
        loss = gram_matching_loss(student=leaf, teacher=teacher, variant=variant)
        loss.backward()
        values[variant], gradients[variant] = float(loss.detach()), float(leaf[0].grad.norm())
    assert values["official"] < 1e-12 < 1e-5 < values["default"]
    assert gradients["default"] > 1e8 * gradients["official"]


def test_positions_may_be_shuffled_but_not_channels():
    student, teacher = maps(1), maps(2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    loss = gram_matching_loss(student=student, teacher=teacher)
    shuffled = gram_matching_loss(student=[m[:, :, order] for m in student], teacher=teacher)
    torch.testing.assert_close(shuffled, loss)
    permuted = gram_matching_loss(student=[m.roll(1, 1) for m in student], teacher=teacher)
    assert abs(permuted - loss) > 1e-3 * loss


def test_samples_do_not_mix():
    """The released Gram matrix spans batch and channels together; ours must not."""
    student, teacher = maps(1), maps(2)
    swapped = gram_matching_loss(student=[m.flip(0) for m in student], teacher=[m.flip(0) for m in teacher])
    torch.testing.assert_close(swapped, gram_matching_loss(student=student, teacher=teacher))


def test_adversarial_orientation_is_zero_for_full_and_one_for_missing():
    says_full, says_missing = torch.full((2, 1), -9.0), torch.full((2, 1), 9.0)
    assert style_adversarial_loss(student=says_full) < 1e-3 < style_adversarial_loss(student=says_missing)
    right = style_discriminator_loss(student=says_missing, teacher=says_full)
    wrong = style_discriminator_loss(student=says_full, teacher=says_missing)
    assert right < 1e-3
    assert float(wrong) == pytest.approx(18, rel=1e-3)


def test_the_loss_on_styles_trains_the_discriminator_alone():
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Conv3d(6, 4, 2), nn.LeakyReLU(0.2), nn.Conv3d(4, 1, (4, 3, 2)))
    student, teacher = (randn(2, 6, 5, 4, 3, seed=seed).requires_grad_() for seed in (1, 2))
    loss = discriminator_loss_on_styles(student=student, teacher=teacher, discriminator=judge)
    softplus = nn.functional.softplus
    torch.testing.assert_close(loss, softplus(judge(teacher)).mean() + softplus(-judge(student)).mean())
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in judge.parameters())
    assert student.grad is None
    assert teacher.grad is None
