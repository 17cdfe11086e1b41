"""The token path at the bottleneck: pad, patch embedding, transformer, taps, token decoder, crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.transformer import TokenTransformer


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
