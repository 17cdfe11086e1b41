"""The token path at the bottleneck: pad, patch embedding, transformer, taps, token decoder, crop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.methods.mstkd.transformer import TokenSettings, TokenTransformer


class TokenOutput(NamedTuple):
    """Outputs of the token path.

    Attributes:
        features: (B, C, *bottleneck).
        attention: of the tapped layers, shallow first; empty if not asked for.
        token_features: of the tapped layers, shallow first; on the padded grid.
    """

    features: Tensor
    attention: list[Tensor]
    token_features: list[Tensor]


class TokenBottleneck(nn.Module):
    """Global context for bottleneck features of any size.

    Args:
        patch_size: bottleneck voxels per token and axis.
        transformer: gives hidden states and attention of the tapped layers.
        decoder: turns the hidden states into bottleneck features again.
    """

    def __init__(self, patch_size: Sequence[int], transformer: TokenTransformer, decoder: nn.Module) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.transformer = transformer
        self.decoder = decoder

    def forward(self, encoded: Tensor, return_attention: bool) -> TokenOutput:
        """(B, C, ...) → features of the same shape, and the taps."""
        size = encoded.shape[2:]
        padded = self._pad(encoded)
        states, attention = self.transformer(padded, return_attention)
        features, token_features = self.decoder(states, padded)
        cropped = features[(..., *(slice(n) for n in size))]
        return TokenOutput(cropped, attention, token_features)

    def _pad(self, x: Tensor) -> Tensor:
        """Zeros at the far end of every axis, up to a whole number of tokens."""
        missing = [-n % p for n, p in zip(x.shape[2:], self.patch_size, strict=True)]
        if not any(missing):
            return x
        return F.pad(x, [amount for axis in reversed(missing) for amount in (0, axis)])


class Rung(nn.Module):
    """Brings one tapped layer to a resolution and fuses it with the features of the deeper ones.

    Args:
        layers: what to build it from.
        token_features: width of a token.
        channels: of the fused features.
        lift: factor per axis from the token grid to this rung.
        climb: factor per axis from the deeper rung; ``None`` for the deepest itself.
    """

    def __init__(
        self,
        layers: Layers,
        token_features: int,
        channels: int,
        lift: Sequence[int],
        climb: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.lift = layers.transposed(token_features, channels, lift)  # a 1×1 convolution where all are 1
        self.climb = _climb(layers, channels, climb)
        self.norm = layers.norm(channels)
        self.nonlin = layers.activation()
        self.conv = layers.conv(channels, channels)

    def forward(self, state: Tensor, deeper: Tensor | None) -> Tensor:
        x = self.lift(state)
        if self.climb is not None:
            x = x + self.climb(deeper)
        return self.conv(self.nonlin(self.norm(x)))


class TokenDecoder(nn.Module):
    """One rung per tapped layer, deep to shallow, from the token grid up to the bottleneck grid.

    Diff to the published decoder (:class:`OfficialTokenDecoder`): the bottleneck's width instead of 64 to 512
    channels, sums instead of concatenations, one convolution per tap, the plan's norm, no resolution above
    the bottleneck's, and no path from the bottleneck features: they are added to the output anyway.

    Args:
        layers: what to build it from.
        channels: of bottleneck and output.
        settings: of the tokens.
    """

    def __init__(self, layers: Layers, channels: int, settings: TokenSettings) -> None:
        super().__init__()
        lifts = _lifts(settings.patch_size, len(settings.taps))
        self.rungs = nn.ModuleList(
            Rung(layers, settings.features, channels, lift, climb)
            for lift, climb in zip(lifts, _climbs(lifts), strict=True)
        )

    def forward(self, states: Sequence[Tensor], encoded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Bottleneck features (B, C, ...) and the fused features of every tap, shallow first.

        Args:
            states: hidden states (B, D, *grid), shallow first.
            encoded: the features that became tokens; unused here, the published decoder needs them.
        """
        fused: list[Tensor] = []
        for rung, state in zip(self.rungs, reversed(states), strict=True):
            fused.append(rung(state, fused[-1] if fused else None))
        return fused[-1], fused[::-1]


def _lifts(patch_size: Sequence[int], taps: int) -> list[tuple[int, ...]]:
    """Factors per axis from the token grid to each rung, deep to shallow.

    The last rung has the bottleneck's resolution, every one before it half of the next, down to the token
    grid: upsampling late is cheap, and an axis with fewer steps to go starts later.
    """
    return [tuple(max(1, size >> (taps - 1 - rung)) for size in patch_size) for rung in range(taps)]


def _climbs(lifts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...] | None]:
    """Factors per axis between neighbouring rungs."""
    steps = [tuple(b // a for a, b in zip(*pair, strict=True)) for pair in pairwise(lifts)]
    return [None, *steps]


def _climb(layers: Layers, channels: int, factors: Sequence[int] | None) -> nn.Module | None:
    if factors is None:
        return None
    if max(factors) == 1:
        return nn.Identity()
    return layers.transposed(channels, channels, factors)
