"""StyleDiscriminator for any bottleneck."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator


def kernels(discriminator):
    return [tuple(m.kernel_size) for m in discriminator.layers if hasattr(m, "kernel_size")]


def test_official_layers_and_parameters():
    discriminator = StyleDiscriminator.official()
    assert sum(p.numel() for p in discriminator.parameters()) == 3_149_249
    assert kernels(discriminator) == [(4, 4, 4)] * 3 + [(2, 3, 2)]


@pytest.mark.parametrize(
    "size",
    [(20, 24, 16), (5, 5, 5), (4, 4, 4), (1, 9, 8), (3, 2, 30), (1, 1, 1), (64, 48), (5, 7), (2, 3)],
    ids=str,
)
def test_one_logit_per_sample_for_any_size(size):
    discriminator = StyleDiscriminator(6, size, base_features=4)
    style = torch.randn(3, 6, *size)
    logits = discriminator(style)
    assert logits.shape == (3, 1, *[1] * len(size))
    # Every voxel is seen.
    style.requires_grad_()
    discriminator(style).sum().backward()
    assert style.grad.abs().sum(dim=(0, 1)).min() > 0


def test_a_short_axis_is_not_strided():
    assert kernels(StyleDiscriminator(6, (3, 9, 8), 4)) == [(3, 4, 4), (3, 4, 4), (3, 2, 2)]


def test_samples_do_not_influence_each_other():
    discriminator = StyleDiscriminator(6, (5, 6), base_features=4)
    style = torch.randn(2, 6, 5, 6)
    torch.testing.assert_close(discriminator(style)[:1], discriminator(style[:1]))
