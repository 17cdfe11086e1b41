"""IM-Fuse's fusion of modalities by a Mamba block, and its transformer over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.fusion import upsample
from nnunetv2_mstkd.methods.imfuse.mamba import Mamba

_MOST_STATES = 256
_HEADS = 8
_MLP_FACTOR = 8  # hidden width of the MLP, in widths of a token
_DROPOUT = 0.1


class MambaFusion(nn.Module):
    """Fuses the maps of all modalities by scanning their voxels: (B, M, C, ...) → (B, C, ...).

    Every voxel, in the order of memory, gives M tokens, one per modality, and a learnt one behind them, whose
    output is the fused voxel. An absent modality's token is zero and takes part: layer norm makes a constant
    of it.

    Args:
        channels: C.
        grid: voxels per axis of the learnt tokens, which are interpolated to any other grid.
        interleaved: in that order; else all of a modality's voxels come before those of the next, and the
            learnt ones last (the paper's MFB instead of I-MFB).
    """

    def __init__(self, channels: int, grid: Sequence[int], interleaved: bool = True) -> None:
        super().__init__()
        self.grid, self.interleaved = tuple(grid), interleaved
        self.fused_tokens = nn.Parameter(torch.randn(1, prod(grid), channels))
        self.scan_norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, min(channels, _MOST_STATES))
        self.mix_norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, channels)

    def forward(self, stack: Tensor) -> Tensor:
        modalities, grid = stack.shape[1], stack.shape[3:]
        tokens = stack.flatten(3).transpose(2, 3)
        fused = resized_table(self.fused_tokens, self.grid, grid).to(tokens.dtype)
        fused = fused.unsqueeze(1).expand(len(tokens), -1, -1, -1)
        sequence = torch.cat((tokens, fused), dim=1)  # (B, M + 1, N, C)
        if self.interleaved:
            sequence, kept = sequence.transpose(1, 2), slice(modalities, None, modalities + 1)
        else:
            kept = slice(modalities * prod(grid), None)
        sequence = sequence.flatten(1, 2)
        # What modalities' own tokens become is not used: computed is what the fused ones need.
        x = sequence[:, kept] + self.mamba(self.scan_norm(sequence), kept)
        x = x + self.mix(self.mix_norm(x))
        return x.transpose(1, 2).unflatten(2, grid)


class StackedFusion(nn.Module):
    """No fusion: (B, M, C, ...) → (B, M·C, ...)."""

    def forward(self, stack: Tensor) -> Tensor:
        return stack.flatten(1, 2)


class TokenTransformer(nn.Module):
    """One pre-norm layer of self-attention and MLP over the voxels of a map, with learnt positions.

    Args:
        features: of a token; a multiple of the 8 heads.
        grid: tokens per axis of the position table, which is interpolated to any other grid.
    """

    def __init__(self, features: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.positions = nn.Parameter(torch.zeros(1, prod(grid), features))
        self.attention_norm = nn.LayerNorm(features)
        self.query_key_value = nn.Linear(features, 3 * features, bias=False)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.projection = nn.Linear(features, features)
        # After the projection and once more after the branch, as released.
        self.branch_dropout = nn.Sequential(nn.Dropout(_DROPOUT), nn.Dropout(_DROPOUT))
        self.mlp_norm = nn.LayerNorm(features)
        self.mlp = nn.Sequential(
            nn.Linear(features, _MLP_FACTOR * features),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_MLP_FACTOR * features, features),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, ...) → (B, D, ...)."""
        grid = x.shape[2:]
        # Contiguous, or the strides run through every layer.
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        tokens = tokens + resized_table(self.positions, self.grid, grid)
        tokens = tokens + self.branch_dropout(self._attention(self.attention_norm(tokens)))
        tokens = tokens + self.mlp(self.mlp_norm(tokens))
        return tokens.transpose(1, 2).unflatten(2, grid)

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=2)
        )
        dropout = self.attention_dropout.p if self.training else 0.0
        device = "cpu" if x.is_meta else x.device.type  # tensors without storage know no autocast
        with torch.autocast(device, enabled=False):
            mixed = F.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), dropout_p=dropout
            )
        return self.projection(mixed.transpose(1, 2).flatten(2))


def resized_table(table: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Table of one entry per voxel (1, N, C), interpolated linearly from one grid to another."""
    if tuple(grid) == tuple(size):
        return table
    channels_first = table.transpose(1, 2).unflatten(2, tuple(grid))
    return upsample(channels_first, size).flatten(2).transpose(1, 2)
