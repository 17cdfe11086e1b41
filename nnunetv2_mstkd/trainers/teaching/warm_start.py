"""The network's own past as its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_mstkd.architectures import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.missing_modality import unwrap
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import Teaching
from nnunetv2_mstkd.trainers.teaching.frozen import FrozenTeacher


class WarmStart(Teaching):
    """A frozen copy of the network as the full-modality phase leaves it."""

    frozen: FrozenTeacher | None = None

    def build(self) -> None:
        trainer = self.trainer
        if trainer.phases.full_epochs == 0:
            raise MSTKDError(
                f"teacher 'warm_start' needs a full-modality phase, but full_phase {trainer.full_phase} of "
                f"{trainer.num_epochs} epochs leaves none; raise one of them, or set teacher 'joint'"
            )

    def start_epoch(self) -> None:
        if self.frozen is not None:
            return
        self.refuse_a_late_beginning()
        self.trainer.print_to_log_file("A frozen copy of the network becomes the teacher.")
        self.frozen = self._copy()

    def _copy(self) -> FrozenTeacher:
        return FrozenTeacher.copy_of(unwrap(self.trainer.network), compiled=self.trainer._do_i_compile())

    def teacher_taps(self, batch: MaskedBatch) -> NetworkTaps:
        assert self.frozen is not None, "start_epoch has made it"
        return self.frozen.taps(batch.data, **self.trainer.tap_request)

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.frozen is None else self.frozen.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frozen = self._copy()
        self.frozen.network.load_state_dict(state)
