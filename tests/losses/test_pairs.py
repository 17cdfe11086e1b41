import pytest
import torch
from fake_taps import randn

from nnunetv2_mstkd.losses.features import content_loss, token_feature_loss
from nnunetv2_mstkd.losses.pairs import bounded_relative_error
from nnunetv2_mstkd.methods.mstkd.attention import attention_extremes_loss


def test_relative_error_has_no_scale_and_no_size():
    student, teacher = randn(2, 3, 4, 5, seed=1), randn(2, 3, 4, 5, seed=2)
    error = bounded_relative_error(student, teacher)
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(bounded_relative_error(factor * student, factor * teacher), error)
    tiled = [x.repeat(1, 1, 3, 2) for x in (student, teacher)]
    torch.testing.assert_close(bounded_relative_error(*tiled), error)


def test_relative_error_by_hand():
    teacher = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    assert bounded_relative_error(teacher, teacher) == 0
    assert bounded_relative_error(torch.zeros(2, 2), teacher) == pytest.approx(0.5)
    # e = 1, E = 1 in the first sample; e = 8, E = 2 in the second
    student = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    assert bounded_relative_error(student, teacher) == pytest.approx((1 / 2 + 8 / 10) / 2)


def test_relative_error_stays_below_one_with_a_gradient_that_lets_go():
    teacher = randn(1, 4, 6, seed=3)
    norms = []
    for factor in (1e1, 1e3, 1e5):
        student = (factor * randn(1, 4, 6, seed=4)).requires_grad_()
        error = bounded_relative_error(student, teacher)
        assert error < 1 + 1e-6
        norms.append(torch.autograd.grad(error, student)[0].norm())
    assert norms[0] > norms[1] > norms[2]


def test_relative_error_of_nothing_is_zero_with_a_finite_gradient():
    student = torch.zeros(1, 4, requires_grad=True)
    error = bounded_relative_error(student, torch.zeros(1, 4))
    error.backward()
    assert error == 0
    assert torch.equal(student.grad, torch.zeros(1, 4))


def test_shapes_and_levels_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 2, 1\), teacher \(1, 2, 3\)"):
        content_loss(student=randn(1, 2, 1), teacher=randn(1, 2, 3))
    with pytest.raises(ValueError, match="1 levels, teacher 2"):
        token_feature_loss(student=[randn(1, 2)], teacher=[randn(1, 2)] * 2)


def test_unknown_variant_is_refused():
    maps = [torch.full((1, 1, 2, 2), 0.5)]
    with pytest.raises(ValueError, match="unknown variant 'paper'"):
        attention_extremes_loss(student=maps, teacher=maps, variant="paper")
