"""Golden numbers of a residual U-Net's released code, and the rule that makes its weights and inputs.

It serves ACN and SMU-Net, whose numbers lie in tests/data under the same file names. All are
computed on CPU in float32. Sub-sampled arrays hold every ``stride``-th element of the flattened tensor;
tolerance 1e-4 of its standard deviation.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DATA = Path(__file__).resolve().parents[1] / "data"


class ResidualGolden:
    """One system's golden numbers.

    Args:
        system: its folder in tests/data, and its name in the seeds.
    """

    def __init__(self, system: str) -> None:
        self.system = system
        self.shapes: dict[str, Any] = self._json("state_dict.json")
        self.manifest: dict[str, Any] = self._json("manifest.json")
        self.network = self._arrays("network_A.npz")
        self.losses = self._arrays("losses_A.npz")

    def normal(self, name: str, shape) -> Tensor:
        return torch.randn(shape, generator=self._generator(name))

    def labels(self, name: str, shape) -> Tensor:
        """One-hot (1, 4, ...): edema, non-enhancing tumour, enhancing tumour, background."""
        drawn = (torch.rand(shape, generator=self._generator(name)) * 4).long().clamp(max=3)
        return torch.nn.functional.one_hot(drawn.view(shape[-3:]), 4).movedim(-1, 0)[None].float()

    def weights(self, part: str, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
        """Values of a network's weights, seeded by the authors' keys."""
        return {key: self._weight(f"{part}/{key}", shape) for key, shape in shapes.items()}

    def assert_same(self, ours: Tensor, name: str) -> None:
        """Compare a tensor with the golden array of a name: elements, shape, mean and standard deviation."""
        golden, described = self.network[name], self.manifest["network"][name]
        assert list(ours.shape) == described["tensor_shape"]
        scale = float(self.network[f"{name}_std"]) or 0.1  # a single value near 0: 1e-5
        ours = ours.detach().double()
        sampled = ours.flatten()[:: described["stride"]]
        torch.testing.assert_close(sampled, golden.flatten().double(), rtol=0, atol=1e-4 * scale)
        assert abs(float(ours.mean()) - float(self.network[f"{name}_mean"])) <= 1e-4 * scale
        if ours.numel() > 1:
            assert abs(float(ours.std()) - scale) <= 1e-4 * scale

    def _weight(self, name: str, shape) -> Tensor:
        z = self.normal(name, shape)
        if z.ndim >= 2:
            return z * (shape[0] / z.numel()) ** 0.5
        return 1 + 0.1 * z if name.endswith("weight") else 0.05 * z

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"A/{self.system}/{name}".encode()))

    def _json(self, file: str) -> dict[str, Any]:
        return json.loads((_DATA / self.system / file).read_text())

    def _arrays(self, file: str) -> dict[str, Tensor]:
        arrays = np.load(_DATA / self.system / file)
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
