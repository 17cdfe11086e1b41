"""Taps as a small network would give them, random or of chosen tensors."""

from __future__ import annotations

import torch

from nnunetv2_mstkd.architectures.taps import NetworkTaps


def fake_taps(seed, *, batch=2, heads=3, dims=3, tokens=8, requires_grad=True, deep_supervision=False):
    """Random taps; each tensor is a leaf of its own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator).requires_grad_(requires_grad)

    def attention():
        scores = torch.randn(batch, 2, tokens, tokens, generator=generator)
        return scores.softmax(-1).requires_grad_(requires_grad)

    size, bottleneck = (8,) * dims, (4,) * dims
    logits = normal(batch, heads, *size)
    levels = [logits, normal(batch, heads, *bottleneck)] if deep_supervision else logits
    inner = {
        "attention": [attention() for _ in range(4)],
        "token_features": [normal(batch, channels, *bottleneck) for channels in (3, 4, 5, 6)],
        "encoded": normal(batch, 6, *bottleneck),
        "style": normal(batch, 6, *bottleneck),
        "content": normal(batch, 6, *bottleneck),
    }
    return NetworkTaps(levels, inner)


def leaves(taps):
    """Every tensor of the taps by name; entries of lists numbered."""
    named = {}
    for name, value in {"logits": taps.logits, **taps.inner}.items():
        if isinstance(value, list):
            named |= {f"{name}{i}": item for i, item in enumerate(value)}
        else:
            named[name] = value
    return named


def random_attention(*shape, seed=0, sharpness=1.0):
    """Row-stochastic maps (..., N, N)."""
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(shape, generator=generator)).softmax(-1)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
