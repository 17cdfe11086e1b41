"""Padding to whole tokens, and the light token decoder's ladder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.methods.mstkd.tokens import TokenBottleneck, TokenDecoder
from nnunetv2_mstkd.methods.mstkd.transformer import TokenSettings


class Recorder(nn.Module):
    """Stands for transformer and decoder: remembers and returns its input."""

    def forward(self, first, second):
        self.seen = (first, second)
        return first, []


class Echo(nn.Module):
    """Stands for the token decoder: returns the padded features."""

    def forward(self, states, encoded):
        return encoded, []


def test_features_are_padded_to_whole_tokens_and_cropped_back():
    transformer = Recorder()
    bottleneck = TokenBottleneck((4, 1, 2), transformer, Echo())
    x = torch.randn(2, 3, 5, 7, 6)
    output = bottleneck(x, return_attention=False)
    padded, _ = transformer.seen
    assert padded.shape == (2, 3, 8, 7, 6)
    assert torch.equal(padded[:, :, :5], x)
    assert not padded[:, :, 5:].any()
    assert torch.equal(output.features, x)


@pytest.mark.parametrize(
    ("patch", "taps", "resolutions"),
    [
        ((4, 4), 4, [(4, 4), (2, 2), (1, 1), (1, 1)]),
        ((2, 4), 4, [(2, 4), (1, 2), (1, 1), (1, 1)]),
        ((1, 1), 2, [(1, 1), (1, 1)]),
        ((4, 1), 1, [(4, 1)]),
    ],
)
def test_ladder_climbs_from_the_token_grid_to_the_bottleneck(patch, taps, resolutions):
    settings = TokenSettings(patch, 8, taps, 2, 16, tuple(range(1, taps + 1)))
    decoder = TokenDecoder(Layers(nn.Conv2d, nn.InstanceNorm2d), 6, settings)
    states = [torch.randn(2, 8, 3, 5) for _ in range(taps)]
    output, features = decoder(states, encoded=torch.empty(0))
    assert [tuple(f.shape) for f in features] == [(2, 6, 3 * a, 5 * b) for a, b in resolutions]
    assert output is features[0]


def test_every_tap_holds_the_deeper_layers():
    settings = TokenSettings((1, 1), 8, 3, 2, 16, (1, 2, 3))
    decoder = TokenDecoder(Layers(nn.Conv2d, nn.InstanceNorm2d), 6, settings)
    states = [torch.randn(1, 8, 4, 4) for _ in range(3)]
    _, before = decoder(states, torch.empty(0))
    _, after = decoder([states[0], states[1] + torch.randn(1, 8, 4, 4), states[2]], torch.empty(0))
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True]
