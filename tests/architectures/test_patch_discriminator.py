"""PatchDiscriminator for any size."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_mstkd.architectures.discriminators import PatchDiscriminator


@pytest.mark.parametrize("size", [(32, 40, 64), (5, 16, 9), (1, 1, 1), (3, 2, 30), (40, 33), (1, 7)], ids=str)
@pytest.mark.parametrize(("kernel", "strides"), [(4, (2, 2, 2, 2, 2)), (3, (1, 1, 2))])
def test_every_voxel_is_judged_at_any_size(size, kernel, strides):
    widths = [4] * (len(strides) - 1)
    discriminator = PatchDiscriminator(3, size, widths, strides, kernel)
    x = torch.randn(2, 3, *size, requires_grad=True)
    logits = discriminator(x)
    assert logits.shape[:2] == (2, 1)
    logits.square().sum().backward()
    assert x.grad.abs().sum((0, 1)).min() > 0


def test_sizes_that_divide_give_one_logit_per_patch():
    discriminator = PatchDiscriminator(3, (64, 32), [2, 2], [2, 2, 2], 4)
    assert discriminator(torch.randn(1, 3, 64, 32)).shape == (1, 1, 8, 4)
    assert discriminator(torch.randn(1, 3, 96, 32)).shape == (1, 1, 12, 4)


def test_samples_do_not_influence_each_other():
    discriminator = PatchDiscriminator(3, (9, 6), [4, 4], [2, 2, 2], 4)
    x = torch.randn(2, 3, 9, 6)
    torch.testing.assert_close(discriminator(x)[:1], discriminator(x[:1]))
