"""An exponential average of a network's weights: validated and exported, while the weights go on learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# So that the average forgets its first, untrained weights, its length grows with the steps at first.
_EARLY = 10


class WeightAverage:
    """Average of a network's parameters; its buffers are copied.

    After every step, average ← d · average + (1 − d) · weights, with d = min(decay, (1 + n) / (10 + n)) after
    n steps (as in ``torch_ema`` and TensorFlow's moving average with ``num_updates``).

    Args:
        network: whose weights; not in DDP, and not compiled.
        decay: d in the long run.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.steps, self.in_place = 0, False
        self.kept: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew with the network's weights as they are."""
        self.steps = 0
        self.kept = {name: tensor.detach().clone() for name, tensor in self._current().items()}

    def _current(self) -> dict[str, Tensor]:
        # Not its state_dict: a U-Net's decoder holds the encoder, whose tensors are there under two names.
        return {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights after a step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (_EARLY + self.steps))
        for name, parameter in self.network.named_parameters():
            self.kept[name].lerp_(parameter, share)
        for name, buffer in self.network.named_buffers():
            self.kept[name].copy_(buffer)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._current().items():
            kept = self.kept[name].clone()
            self.kept[name].copy_(tensor)
            tensor.copy_(kept)
        self.in_place = not self.in_place

    def put_in_place(self) -> None:
        """The network has the average's weights from here on."""
        if not self.in_place:
            self._swap()

    def take_out(self) -> None:
        """The network has its own weights again."""
        if self.in_place:
            self._swap()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the average's weights inside."""
        before = self.in_place
        self.put_in_place()
        try:
            yield
        finally:
            if not before:
                self.take_out()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the network's weights, whichever these are at the moment."""
        return {"steps": self.steps, "in_place": self.in_place, "kept": dict(self.kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; the network has the weights of the same checkpoint already."""
        self.steps, self.in_place = int(state["steps"]), bool(state["in_place"])
        for name, tensor in state["kept"].items():
            self.kept[name].copy_(tensor)
        self.take_out()
