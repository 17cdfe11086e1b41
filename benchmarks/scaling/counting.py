"""Multiply-adds of a forward pass, counted on tensors without storage; how much of them is attention.

A backward pass costs about twice the forward pass in every part (2.5 times for fused attention, which
computes its scores again), so the shares are nearly those of a training step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.plans.architecture import build_on_meta

SHARES = (0.01, 0.05, 0.10)


@dataclass(frozen=True)
class Counted:
    """One patch through one network, without attention maps for a distillation.

    Attributes:
        tokens: their number.
        convolutions: multiply-adds of convolutions; grow with the voxels.
        linear: of the transformer's linear layers; grow with the tokens.
        attention: of the products with queries, keys and values; grow with the tokens' square.
    """

    tokens: int
    convolutions: int
    linear: int
    attention: int

    @property
    def total(self) -> int:
        """Multiply-adds of everything."""
        return self.convolutions + self.linear + self.attention

    @property
    def share(self) -> float:
        """Attention's part of all multiply-adds."""
        return self.attention / self.total

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "tokens": self.tokens,
            "multiply_adds": {
                "convolutions": self.convolutions,
                "linear": self.linear,
                "attention": self.attention,
            },
            "attention_share": self.share,
        }


def count(architecture: Mapping[str, Any], patch: Sequence[int], channels: int, classes: int) -> Counted:
    """Count the network that an ``architecture`` entry of plans names (MSTKDNet)."""
    network = build_on_meta(architecture, channels, classes)
    assert isinstance(network, MSTKDNet)
    with FlopCounterMode(display=False) as counter:
        run_on_meta(network, (1, channels, *patch))
    parts = {"convolutions": 0, "linear": 0, "attention": 0}
    for operation, flops in counter.get_flop_counts()["Global"].items():
        parts[_part(str(operation))] += flops // 2  # a multiplication and an addition
    return Counted(prod(network.token_grid), **parts)


def _part(operation: str) -> str:
    if "convolution" in operation:
        return "convolutions"
    # The linear layers see one matrix, attention one for each head.
    return "attention" if "bmm" in operation or "dot_product" in operation else "linear"


def tokens_at(counted: Counted, share: float) -> int:
    """From how many tokens on attention is more than ``share`` of all multiply-adds.

    The patch grows, the network stays: everything but attention then grows with the number of tokens.
    """
    rest_per_token = (counted.total - counted.attention) / counted.tokens
    attention_per_pair = counted.attention / counted.tokens**2
    return ceil(share / (1 - share) * rest_per_token / attention_per_pair)


def edge(tokens: int, voxels_per_token: int, axes: int) -> int:
    """Edge of the square or cube, in voxels, that has so many tokens."""
    root = sqrt(tokens) if axes == 2 else tokens ** (1 / 3)
    return round(root * voxels_per_token)
