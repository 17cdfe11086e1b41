import pytest
import torch
from fake_taps import random_attention

from nnunetv2_mstkd.methods.mstkd.attention import _extreme_products, attention_extremes_loss


def maps(tokens, seed, sharpness=0.1, layers=3):
    return [
        random_attention(1, 2, tokens, tokens, seed=10 * seed + i, sharpness=sharpness) for i in range(layers)
    ]


def loss(tokens, variant, sharpness=0.1):
    return float(
        attention_extremes_loss(
            student=maps(tokens, 1, sharpness), teacher=maps(tokens, 2, sharpness), variant=variant
        )
    )


def test_products_with_the_extremes_by_hand():
    one = torch.tensor([[1.0, 0.0], [0.5, 0.5]])[None, None]
    two = torch.tensor([[0.2, 0.8], [0.4, 0.6]])[None, None]
    expected = [
        *(one * torch.maximum(one, two), two * torch.maximum(one, two)),
        *(one * torch.minimum(one, two), two * torch.minimum(one, two)),
        *(one * (one + two) / 2, two * (one + two) / 2),
    ]
    for product, by_hand in zip(_extreme_products([one, two]), expected, strict=True):
        torch.testing.assert_close(product, by_hand)


def test_official_falls_with_the_fourth_power_of_the_tokens_near_uniform_attention():
    assert loss(32, "official") / loss(128, "official") == pytest.approx(4**4, rel=0.1)


def test_default_does_not_depend_on_the_number_of_tokens_near_uniform_attention():
    assert loss(128, "default") == pytest.approx(loss(32, "default"), rel=0.1)


def test_default_does_not_depend_on_the_number_of_tokens_when_attention_is_peaked():
    """Every query attends to one token; a third of the queries of the student to another one."""
    values = []
    for tokens in (30, 300):
        teacher = torch.eye(tokens)[None, None]
        student = teacher.clone()
        moved = torch.arange(0, tokens, 3)
        student[..., moved, :] = student[..., moved, :].roll(1, -1)
        values.append(float(attention_extremes_loss(student=[student], teacher=[teacher])))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    # e / E = 2/3 (a third of the rows miss one entry of 1 and have another)
    assert values[0] == pytest.approx((2 / 3) / (1 + 2 / 3), rel=1e-5)


@pytest.mark.parametrize("sharpness", [1e-3, 1.0, 100.0])
def test_default_is_bounded(sharpness):
    assert 0 < loss(40, "default", sharpness) < 1


def test_default_survives_thousands_of_tokens_in_half_precision():
    """1/N² squared is 1e-12 for 1000 tokens, far below what 16 bits hold."""
    tokens = 1000
    student, teacher = (random_attention(1, 1, tokens, tokens, seed=s, sharpness=0.3) for s in (1, 2))
    exact = attention_extremes_loss(student=[student], teacher=[teacher])
    halved = attention_extremes_loss(student=[student.half()], teacher=[teacher.half()])
    assert float(halved) == pytest.approx(float(exact), rel=0.01)


def test_default_squares_nothing_that_underflows():
    """Products are 1/N² = 1e-12 here, their squares far below the guard against 0/0; N times N is not."""
    values = []
    for keys in (100, 1_000_000):
        student, teacher = (random_attention(1, 1, 2, keys, seed=s, sharpness=0.5) for s in (1, 2))
        values.append(float(attention_extremes_loss(student=[student], teacher=[teacher])))
    assert values[0] == pytest.approx(values[1], rel=0.3)
