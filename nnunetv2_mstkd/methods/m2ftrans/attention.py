"""Attention of M2FTrans, over tokens or over channels, in which absent modalities are not seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    visible: Tensor | None = None,
    dropout: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """Attended values (..., Q, D) and attention (..., Q, K), in float32.

    A query that sees no key at all gets the mean of all values: no output is made of it, but its gradient
    has to be finite.

    Args:
        queries: (..., Q, E).
        keys: (..., K, E).
        values: (..., K, D).
        scale: of the products of queries and keys.
        visible: bool, broadcast to (..., Q, K); all keys by default.
        dropout: of the attention.
    """
    device = "cpu" if queries.is_meta else queries.device.type  # tensors without storage know no autocast
    with torch.autocast(device, enabled=False):
        scores = (queries.float() * scale) @ keys.float().transpose(-2, -1)
        if visible is not None:
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        attention = scores.softmax(-1)
        if dropout is not None:
            attention = dropout(attention)
        return attention @ values.float(), attention
