"""What a network shows of itself to the distillation terms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class NetworkTaps:
    """Outputs and inner features of one forward pass; ``None`` is what a network does not have.

    Sizes in brackets are per axis.

    Attributes:
        logits: (B, K, *patch), no nonlinearity applied; with deep supervision a list, full resolution first.
        attention: one (B, heads, N, N) per tapped transformer layer, shallow first: probabilities in float32,
            after the softmax and before dropout (rows sum to 1), N tokens.
        token_features: one map per tapped layer, shallow first (z3, z6, z9, z12 in the published network), as
            the token decoder has fused them: each holds its own layer and all deeper ones.
        encoded: (B, C, *bottleneck) output of the last downsampling convolution, before the tokens; of a
            U-Net, its deepest features.
        style: (B, C, *bottleneck).
        content: (B, C, *bottleneck).
    """

    logits: Tensor | list[Tensor]
    attention: list[Tensor] | None = None
    token_features: list[Tensor] | None = None
    encoded: Tensor | None = None
    style: Tensor | None = None
    content: Tensor | None = None
