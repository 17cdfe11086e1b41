"""mmFormer's transformer layer (Zhang et al., MICCAI 2022), written anew from a description."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8
_DROPOUT = 0.1
_MLP_RATIO = 8


class TransformerLayer(nn.Module):
    """Self-attention, then an MLP, each behind a layer norm and added to what came in.

    Weights are PyTorch's defaults, as released.

    Args:
        features: width of a token; a multiple of the 8 heads.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = SelfAttention(features)
        # Beside the attention's own: what it adds passes two in a row, as released.
        self.dropout = nn.Dropout(_DROPOUT)
        self.mlp_norm = nn.LayerNorm(features)
        self.mlp = nn.Sequential(
            nn.Linear(features, _MLP_RATIO * features),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_MLP_RATIO * features, features),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.mlp(self.mlp_norm(tokens))


class SelfAttention(nn.Module):
    """Attention of every token to all, 8 heads; dropout on its probabilities and on the result.

    PyTorch's fused attention: no matrix of N × N where the device has a kernel for it, and a softmax in
    float32 whatever the inputs are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(features, 3 * features, bias=False)
        self.out = nn.Linear(features, features)
        self.attention_dropout = nn.Dropout(_DROPOUT)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        heads = self.queries_keys_values(tokens).unflatten(2, (3, HEADS, -1))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attention_dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
