"""M2FTrans' masked fusion transformer: modalities look at themselves, fusion tokens at all that is there."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.fusion import upsample
from nnunetv2_mstkd.methods.m2ftrans.attention import attend

_LAYERS = 3
_HEADS = 8
_DROPOUT = 0.1


class FusionTransformer(nn.Module):
    """Fuses the deepest maps of all modalities into a map of fusion tokens.

    Tokens are the voxels of a map, N per modality; N learnt fusion tokens come behind them. A modality's
    tokens see their own modality alone, whether or not it is present. Fusion tokens see each other and the
    tokens of every present modality. The released code masks one attention over all tokens, with a mask of
    (5N)² numbers per head, layer and pass; here the two kinds of query run apart.

    Args:
        modalities: M.
        width: D, channels of the maps.
        grid: voxels per axis of the maps that the tables are made for; interpolated for others.
        mlp_features: hidden width of the token-wise networks.
    """

    def __init__(self, modalities: int, width: int, grid: Sequence[int], mlp_features: int) -> None:
        super().__init__()
        self.modalities = modalities
        self.grid = tuple(grid)
        number = prod(self.grid)
        self.positions = nn.Parameter(torch.zeros(1, (modalities + 1) * number, width))
        self.fusion_tokens = nn.Parameter(torch.randn(1, number, width))
        self.layers = nn.ModuleList(TransformerLayer(width, mlp_features) for _ in range(_LAYERS))

    def forward(self, maps: Sequence[Tensor], present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map of every modality, map of the fusion tokens, and weights of the modalities' voxels.

        Args:
            maps: (B, D, *grid) per modality.
            present: (B, M) bool.

        Returns:
            (B, M, D, *grid); (B, D, *grid); and (B, M, *grid), float32 without gradient: how much the first
            layer's fusion tokens look at a voxel, summed over heads and tokens, 0 for absent modalities.
        """
        grid = tuple(maps[0].shape[2:])
        # The sum of all layers is kept in full precision.
        tokens = torch.stack([x.flatten(2).transpose(1, 2) for x in maps], dim=1).to(self.positions.dtype)
        fusion = self._on_grid(self.fusion_tokens, grid).expand(len(tokens), 1, -1, -1)
        tokens = torch.cat((tokens, fusion), dim=1) + self._on_grid(self.positions, grid)
        visible = torch.cat((present, torch.ones_like(present[:, :1])), dim=1)
        visible = visible[..., None].expand(-1, -1, prod(grid)).flatten(1)[:, None, None]
        first, *others = self.layers
        tokens, attention = first(tokens, visible)
        weights = attention.detach().sum((1, 2)).unflatten(1, (self.modalities + 1, *grid))[:, :-1]
        for layer in others:
            tokens, _ = layer(tokens, visible)
        found = tokens.transpose(2, 3).unflatten(3, grid)
        return found[:, :-1], found[:, -1], weights

    def _on_grid(self, table: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Table (1, S·N, D) as (S, N', D) for the N' voxels of ``grid``."""
        sets = table[0].unflatten(0, (-1, *self.grid))
        return upsample(sets.movedim(-1, 1), grid).flatten(2).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Masked attention and a token-wise network, both behind a norm and added."""

    def __init__(self, width: int, mlp_features: int) -> None:
        super().__init__()
        self.attention = MaskedAttention(width)
        self.dropout = nn.Dropout(_DROPOUT)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_features),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(mlp_features, width),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, M + 1, N, D) and the fusion tokens' attention, see :class:`MaskedAttention`."""
        attended, attention = self.attention(tokens, visible)
        tokens = tokens + self.dropout(attended)
        return tokens + self.mlp(tokens), attention


class MaskedAttention(nn.Module):
    """Self-attention of each modality's tokens, and attention of the fusion tokens to all visible tokens.

    Args:
        width: D. Heads are 8, or fewer if those do not divide it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = gcd(_HEADS, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.out = nn.Linear(width, width)
        # As released: a second one, behind the layer's own.
        self.out_dropout = nn.Dropout(_DROPOUT)

    def forward(self, tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Attended tokens (B, M + 1, N, D), and attention (B, heads, N, (M + 1)·N) of the fusion tokens.

        Args:
            tokens: (B, M + 1, N, D), fusion tokens last.
            visible: (B, 1, 1, (M + 1)·N) bool, what fusion tokens see.
        """
        split = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).transpose(2, 4)
        q, k, v = split.unbind(3)  # (B, M + 1, heads, N, D / heads)
        scale = q.shape[-1] ** -0.5
        own, _ = attend(q[:, :-1], k[:, :-1], v[:, :-1], scale, dropout=self.attention_dropout)
        all_k, all_v = (x.transpose(1, 2).flatten(2, 3) for x in (k, v))
        fused, attention = attend(q[:, -1], all_k, all_v, scale, visible, self.attention_dropout)
        attended = torch.cat((own, fused[:, None]), dim=1).transpose(2, 3).flatten(3)
        return self.out_dropout(self.out(attended)), attention
