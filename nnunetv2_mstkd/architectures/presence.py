"""Which modalities a patch shows, read from the patch itself."""

from __future__ import annotations

from torch import Tensor


def shown(x: Tensor) -> Tensor:
    """Channels (B, M) bool of ``x`` (B, M, ...) that hold anything but zeros."""
    return x.flatten(2).any(2)


def presence(x: Tensor) -> Tensor:
    """Modalities (B, M) bool that count as present in ``x`` (B, M, ...).

    An absent modality is a channel of exact zeros. A patch that is zero everywhere lies in the background and
    says nothing about what the case has: all its modalities count as present, so that no network ever works
    with none. Without branches on data, for torch.compile.
    """
    there = shown(x)
    return there | ~there.any(1, keepdim=True)
