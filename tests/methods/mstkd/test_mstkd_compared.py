from __future__ import annotations

import pytest
import torch
from fake_taps import fake_taps

from nnunetv2_mstkd.methods.mstkd.compared import compared, misfit, style_features
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES


def unet(seed):
    """A network without tokens that does not split style from content."""
    taps = fake_taps(seed)
    taps.inner = {"encoded": taps.inner["encoded"]}
    return taps


@pytest.mark.parametrize("term", TERM_NAMES)
def test_equal_networks_fit_in_every_term_whatever_the_batch(term):
    assert misfit(term, fake_taps(1), fake_taps(2, batch=5)) is None


def test_a_unet_is_compared_at_its_bottleneck():
    taps = unet(1)
    assert style_features(taps) is taps.inner["encoded"]
    for term in ("content", "gram", "adversarial"):
        assert list(compared(term, taps)) == ["encoded"]
        assert misfit(term, taps, unet(2)) is None
    assert misfit("attention", taps, unet(2)) == "the student's network shows no attention"


def test_a_style_is_not_compared_with_a_bottleneck():
    for term in ("content", "adversarial"):
        assert "the teacher's encoded" in misfit(term, fake_taps(1), unet(2))
    assert misfit("gram", fake_taps(1), unet(2)) == (
        "the student's network shows encoded and style and content, the teacher's encoded"
    )
    assert misfit("kl", fake_taps(1), unet(2)) is None


def test_other_sizes_are_named():
    student, teacher = fake_taps(1), fake_taps(2)
    teacher.inner["content"] = torch.zeros(2, 7, 4, 4, 4)
    assert (
        misfit("content", student, teacher)
        == "content is 6 x 4 x 4 x 4 in the student, 7 x 4 x 4 x 4 in the teacher"
    )
    teacher.inner["token_features"] = teacher.inner["token_features"][:3]
    assert "token_features" in misfit("token_features", student, teacher)


def test_samples_are_picked_from_every_tap():
    taps = fake_taps(1, deep_supervision=True)
    picked = taps.select(torch.tensor([1]))
    torch.testing.assert_close(picked.logits[1], taps.logits[1][1:])
    torch.testing.assert_close(picked.inner["attention"][3], taps.inner["attention"][3][1:])
    torch.testing.assert_close(picked.inner["style"], taps.inner["style"][1:])
    del taps.inner["style"]
    assert "style" not in taps.select(torch.tensor([1])).inner
