"""A second network that learns at the student's side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nnunetv2_mstkd.architectures import NetworkTaps
from nnunetv2_mstkd.trainers.missing_modality import unwrap
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import Teaching


class Joint(Teaching):
    """Two networks learn side by side from the start, with one optimizer (the published way)."""

    learns = True
    network: nn.Module
    begun = False

    def build(self) -> None:
        self.network = self.trainer.new_network()
        if self.trainer._do_i_compile():
            compiled: Any = torch.compile(self.network)  # a module again, whatever torch's signature says
            self.network = compiled

    def distribute(self) -> None:
        if self.trainer.is_ddp:
            self.network = self.trainer.wrap_ddp(self.network)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def start_epoch(self) -> None:
        if not self.begun:
            self.refuse_a_late_beginning()
        self.begun = True
        self.network.train()

    def teacher_taps(self, batch: MaskedBatch) -> NetworkTaps:
        return self.network(batch.data, **self.trainer.tap_request)

    def state_dict(self) -> dict[str, Any]:
        return unwrap(self.network).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        unwrap(self.network).load_state_dict(state)
        self.begun = True
