"""Pre-norm transformer over the tokens of a patch, whose attention can be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.errors import MSTKDError

# Value of MST-KDNet and of the ViT that it descends from.
_NORM_EPS = 1e-6
_LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class SelfAttention(nn.Module):
    """Multi-head self-attention with dropout on the probabilities and on the projection."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)
        self.out = nn.Linear(features, features)
        self.attention_dropout = nn.Dropout(dropout)
        self.projection_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, return_attention: bool) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) → (B, N, D) and, if asked for, the attention (B, heads, N, N)."""
        query, key, value = (self._split_heads(linear(x)) for linear in (self.query, self.key, self.value))
        attention = None
        if return_attention:
            attention = self._probabilities(query, key)
            mixed = self.attention_dropout(attention).to(value.dtype) @ value
        else:
            dropout = self.attention_dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        merged = mixed.transpose(1, 2).flatten(2)
        return self.projection_dropout(self.out(merged)), attention

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    @staticmethod
    def _probabilities(query: Tensor, key: Tensor) -> Tensor:
        # The distillation compares small differences between these, which 16 bits would round away.
        device = "cpu" if query.is_meta else query.device.type  # tensors without storage know no autocast
        with torch.autocast(device, enabled=False):
            scores = query.float() @ key.float().transpose(-2, -1)
            return torch.softmax(scores * query.shape[-1] ** -0.5, dim=-1)


class TransformerLayer(nn.Module):
    """Attention and MLP, each behind a layer norm and with an identity around it."""

    def __init__(self, settings: TokenSettings) -> None:
        super().__init__()
        features, mlp_features = settings.features, settings.mlp_features
        self.attention_norm = nn.LayerNorm(features, eps=_NORM_EPS)
        self.attention = SelfAttention(features, settings.heads, settings.dropout)
        self.mlp_norm = nn.LayerNorm(features, eps=_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(features, mlp_features),
            nn.ReLU(inplace=True),
            nn.Dropout(settings.dropout),
            nn.Linear(mlp_features, features),
        )

    def forward(self, x: Tensor, return_attention: bool) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) → (B, N, D) and, if asked for, the attention (B, heads, N, N)."""
        mixed, attention = self.attention(self.attention_norm(x), return_attention)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), attention


class TokenTransformer(nn.Module):
    """Patch embedding, learnable positions, transformer layers (``Unetr.transformer`` in its released code).

    Args:
        layers: gives the patch embedding's convolution.
        in_channels: of the features that become tokens.
        position_grid: tokens per axis of the position table, which is interpolated to any other grid.
        settings: of the tokens.
    """

    def __init__(
        self, layers: Layers, in_channels: int, position_grid: Sequence[int], settings: TokenSettings
    ) -> None:
        super().__init__()
        self.position_grid = tuple(position_grid)
        self.taps = frozenset(settings.taps)
        self.heads = settings.heads
        # Not Layers.conv, which pads: patches do not overlap.
        self.patch_embedding = layers.conv_op(
            in_channels, settings.features, settings.patch_size, settings.patch_size
        )
        self.position_table = nn.Parameter(torch.zeros(1, math.prod(self.position_grid), settings.features))
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(TransformerLayer(settings) for _ in range(settings.layers))

    def forward(self, x: Tensor, return_attention: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden states (B, D, *grid) and attention (B, heads, N, N) of the tapped layers, shallow first.

        Args:
            x: (B, C, ...), every axis a multiple of the token patch.
            return_attention: without it the second list is empty and no attention matrix exists.
        """
        embedded = self.patch_embedding(x)
        grid = embedded.shape[2:]
        # Contiguous, or the strides run through every layer and torch.compile's backward trips over them.
        embedded_tokens = embedded.flatten(2).transpose(1, 2).contiguous()
        tokens = self.dropout(embedded_tokens + self._positions(grid))
        states: list[Tensor] = []
        attention: list[Tensor] = []
        for number, layer in enumerate(self.layers, start=1):
            tapped = number in self.taps
            tokens, probabilities = layer(tokens, return_attention and tapped)
            if probabilities is not None:
                attention.append(probabilities)
            if tapped:
                states.append(tokens.transpose(1, 2).unflatten(2, grid))
        return states, attention

    def _positions(self, grid: Sequence[int]) -> Tensor:
        """Position table (1, N, D), interpolated linearly where the input has another grid."""
        if tuple(grid) == self.position_grid:
            return self.position_table
        table = self.position_table.transpose(1, 2).unflatten(2, self.position_grid)
        resized = F.interpolate(
            table, size=tuple(grid), mode=_LINEAR_INTERPOLATION[len(grid)], align_corners=False
        )
        return resized.flatten(2).transpose(1, 2)


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
