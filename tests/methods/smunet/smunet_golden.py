"""Golden numbers of SMU-Net's released code (tests/data/smunet), and the rule that makes weights and inputs.

Computed with github.com/rezazad68/smunet, commit 251f3ad (MIT), on CPU in float32. Sub-sampled arrays hold
every ``stride``-th element of the flattened tensor; tolerance 1e-4 of its standard deviation.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parents[2] / "data" / "smunet"
SHAPES = json.loads((DATA / "state_dict.json").read_text())
MANIFEST = json.loads((DATA / "manifest.json").read_text())
NETWORK, LOSSES = (
    {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(DATA / file).items()}
    for file in ("network_A.npz", "losses_A.npz")
)


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"A/smunet/{name}".encode()))


def normal(name: str, shape) -> Tensor:
    return torch.randn(shape, generator=generator(name))


def labels(name: str, shape) -> Tensor:
    """One-hot (1, 4, ...): edema, non-enhancing tumour, enhancing tumour, background."""
    drawn = (torch.rand(shape, generator=generator(name)) * 4).long().clamp(max=3)
    return torch.nn.functional.one_hot(drawn.view(shape[-3:]), 4).movedim(-1, 0)[None].float()


def weights(part: str, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Values of a network's weights, seeded by the authors' keys."""
    return {key: _weight(f"{part}/{key}", shape) for key, shape in shapes.items()}


def _weight(name: str, shape) -> Tensor:
    z = normal(name, shape)
    if z.ndim >= 2:
        return z * (shape[0] / z.numel()) ** 0.5
    return 1 + 0.1 * z if name.endswith("weight") else 0.05 * z


def assert_same(ours: Tensor, name: str) -> None:
    """Compare a tensor with the golden array of a name: elements, shape, mean and standard deviation."""
    golden, described = NETWORK[name], MANIFEST["network"][name]
    assert list(ours.shape) == described["tensor_shape"]
    scale = float(NETWORK[f"{name}_std"]) or 0.1  # a single value near 0: 1e-5
    ours = ours.detach().double()
    sampled = ours.flatten()[:: described["stride"]]
    torch.testing.assert_close(sampled, golden.flatten().double(), rtol=0, atol=1e-4 * scale)
    assert abs(float(ours.mean()) - float(NETWORK[f"{name}_mean"])) <= 1e-4 * scale
    if ours.numel() > 1:
        assert abs(float(ours.std()) - scale) <= 1e-4 * scale
