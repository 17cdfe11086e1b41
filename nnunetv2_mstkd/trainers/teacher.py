"""Where the teacher of a distillation comes from, and how it is kept."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.taps import NetworkTaps


class FrozenTeacher:
    """A network that only looks: eval mode, no gradients, in no optimizer and in no DDP wrapper.

    Args:
        network: taken over; its deep-supervision outputs are switched off.
        compiled: run it through torch.compile, as nnU-Net does with the student.
    """

    def __init__(self, network: nn.Module, compiled: bool = False) -> None:
        self.network = network.requires_grad_(False).eval()
        self.network.decoder.deep_supervision = False
        self._forward = torch.compile(self.network) if compiled else self.network

    @classmethod
    def copy_of(cls, student: nn.Module, compiled: bool = False) -> FrozenTeacher:
        """Freeze a copy of the student as it is now (warm start)."""
        return cls(deepcopy(student), compiled)

    @torch.no_grad()
    def taps(self, data: Tensor) -> NetworkTaps:
        """Logits and taps for the whole patch (B, C, ...)."""
        return self._forward(data, return_taps=True)
