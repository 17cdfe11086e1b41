"""A network that only looks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures import NetworkTaps


class FrozenTeacher:
    """A network in eval mode, without gradients, in no optimizer and in no DDP wrapper.

    Args:
        network: taken over; its deep-supervision outputs are switched off.
        compiled: run it through torch.compile, as nnU-Net does with the student.
    """

    def __init__(self, network: nn.Module, compiled: bool = False) -> None:
        self.network = network.requires_grad_(False).eval()
        decoder: Any = getattr(self.network, "decoder", None)
        if decoder is not None:
            decoder.deep_supervision = False
        self._forward = torch.compile(self.network) if compiled else self.network

    @classmethod
    def copy_of(cls, student: nn.Module, compiled: bool = False) -> FrozenTeacher:
        """Freeze a copy of the student as it is now."""
        return cls(deepcopy(student), compiled)

    @torch.no_grad()
    def taps(self, data: Tensor, **request: Any) -> NetworkTaps:
        """Logits and taps for the whole patch (B, C, ...)."""
        return self._forward(data, **request)
