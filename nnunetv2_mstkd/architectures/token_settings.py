"""Hyper-parameters of the token bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_mstkd.errors import MSTKDError

TOKEN_PATCH_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class TokenSettings:
    """How bottleneck features become tokens and what the transformer over them looks like.

    Attributes:
        patch_size: bottleneck voxels per token and axis; each 1, 2, 4 or 8.
        features: width of a token.
        layers: transformer layers.
        heads: attention heads.
        mlp_features: hidden width of the MLP.
        taps: numbers of the layers (from 1, ascending) that the decoder and the distillation look at. The
            last layer is one of them: layers behind the last tap would reach no output.
        dropout: probability, in embedding, attention and MLP.

    Raises:
        MSTKDError: a value that no network can be built from.
    """

    patch_size: Sequence[int]
    features: int
    layers: int
    heads: int
    mlp_features: int
    taps: Sequence[int]
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if any(size not in TOKEN_PATCH_SIZES for size in self.patch_size):
            raise MSTKDError(
                f"token_patch_size {list(self.patch_size)} is not possible; use 1, 2, 4 or 8 per axis"
            )
        if self.features % self.heads:
            raise MSTKDError(
                f"token_features {self.features} cannot be split into token_heads {self.heads}; "
                f"use a multiple of {self.heads}"
            )
        if not self.taps or list(self.taps) != sorted({*self.taps, self.layers}) or self.taps[0] < 1:
            raise MSTKDError(
                f"token_taps {list(self.taps)} do not fit; give layer numbers from 1, ascending, "
                f"ending in token_layers ({self.layers})"
            )
