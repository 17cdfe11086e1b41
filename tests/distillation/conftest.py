"""Golden numbers of the released code, and taps to compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "data" / "mstkd_losses_setA.npz"


class Golden(Mapping):
    """Arrays of the released code's run as fresh tensors (REFERENCE.md 1, ../shared/refvec/README.md)."""

    def __init__(self) -> None:
        with np.load(GOLDEN) as content:
            self.arrays = dict(content)

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name].copy())

    def __iter__(self):
        return iter(self.arrays)

    def __len__(self):
        return len(self.arrays)

    def leaf(self, name):
        return self[name].requires_grad_()

    def levels(self, prefix, count):
        return [self.leaf(f"{prefix}_{i}") for i in range(count)]


@pytest.fixture(scope="session")
def golden():
    return Golden()


def close(actual, expected, rel=1e-5):
    """Equal within ``rel`` of the largest expected magnitude: what one float32 sum can promise."""
    if abs(expected).max() < 1e-9:
        rel = 1e-4
    torch.testing.assert_close(actual, expected, rtol=rel, atol=rel * float(abs(expected).max()))


def make_taps(seed, *, batch=2, heads=3, dims=3, tokens=8, requires_grad=True, deep_supervision=False):
    """Random taps of a small network's shapes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator).requires_grad_(requires_grad)

    def attention():
        scores = torch.randn(batch, 2, tokens, tokens, generator=generator)
        return scores.softmax(-1).requires_grad_(requires_grad)

    size, bottleneck = (8,) * dims, (4,) * dims
    logits = normal(batch, heads, *size)
    return SimpleNamespace(
        logits=[logits, normal(batch, heads, *bottleneck)] if deep_supervision else logits,
        attention=[attention() for _ in range(4)],
        token_features=[normal(batch, c, *bottleneck) for c in (3, 4, 5, 6)],
        encoded=normal(batch, 6, *bottleneck),
        style=normal(batch, 6, *bottleneck),
        content=normal(batch, 6, *bottleneck),
    )


def leaves(taps):
    """Every tensor of taps, by name."""
    named = {}
    for name, value in vars(taps).items():
        if isinstance(value, list):
            named |= {f"{name}{i}": item for i, item in enumerate(value)}
        else:
            named[name] = value
    return named


@pytest.fixture
def taps():
    return make_taps
