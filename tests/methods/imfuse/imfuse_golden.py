"""Numbers of IM-Fuse's released code: how weights and inputs are made, and how arrays are compared.

tests/data/imfuse: sub-sampled outputs of github.com/AImageLab-zip/IM-Fuse, commit fbbd48e, on CPU in float32,
with a Mamba block in plain PyTorch in the place of the CUDA one; ``*_index.json`` has shapes and
sub-sampling, ``state_dict*.json`` the released keys and shapes.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).resolve().parents[2] / "data" / "imfuse"


def read_json(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text())


def read_arrays(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(DATA / f"{name}.npz"))


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, shape) -> torch.Tensor:
    return torch.randn(shape, generator=generator(name))


def golden_weight(prefix: str, key: str, shape) -> torch.Tensor:
    z = normal(f"{prefix}/{key}", shape)
    rules = {
        "A_log": lambda: torch.arange(1.0, shape[-1] + 1).log() + 0.1 * z,
        ".D": lambda: 1 + 0.1 * z,
        "dt_proj.bias": lambda: -3 + 0.5 * z,
        "fused_tokens": lambda: z,
        "_pos": lambda: 0.02 * z,
    }
    for ending, rule in rules.items():
        if key.endswith(ending):
            return rule()
    if z.ndim >= 2:
        return z * (shape[0] / z.numel()) ** 0.5
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def assert_golden(found: torch.Tensor, name: str, golden: dict, index: dict, tolerance: float) -> None:
    """Sub-sampled values, mean and standard deviation within ``tolerance`` standard deviations."""
    std = float(golden[f"{name}_std"].item())
    assert list(found.shape) == index[name]["shape"], name
    sampled = found[tuple(slice(None, None, step) for step in index[name]["strides"])]
    np.testing.assert_allclose(sampled, golden[name], rtol=0, atol=tolerance * std, err_msg=name)
    assert float(found.mean()) == pytest.approx(golden[f"{name}_mean"].item(), abs=tolerance * std), name
    assert float(found.std(correction=0)) == pytest.approx(std, abs=tolerance * std), name
