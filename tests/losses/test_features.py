import pytest
import torch
from fake_taps import randn

from nnunetv2_mstkd.losses.features import content_loss, token_feature_loss


def levels(seed, scales=(1.0, 1.0)):
    return [scale * randn(2, 3 + i, 4, 4, seed=10 * seed + i) for i, scale in enumerate(scales)]


def test_no_level_counts_more_for_larger_features():
    even = token_feature_loss(student=levels(1), teacher=levels(2))
    loud = token_feature_loss(student=levels(1, (1.0, 100.0)), teacher=levels(2, (1.0, 100.0)))
    torch.testing.assert_close(loud, even)


def test_official_is_the_sum_of_mean_squared_errors():
    student, teacher = levels(1), levels(2)
    by_hand = sum(float((s - t).square().mean()) for s, t in zip(student, teacher, strict=True))
    assert float(token_feature_loss(student=student, teacher=teacher, variant="official")) == pytest.approx(
        by_hand
    )


def test_content_is_the_token_loss_of_one_level():
    student, teacher = randn(2, 3, 4, seed=1), randn(2, 3, 4, seed=2)
    for variant in ("default", "official"):
        alone = content_loss(student=student, teacher=teacher, variant=variant)
        assert alone == token_feature_loss(student=[student], teacher=[teacher], variant=variant)
