"""One network that is teacher and student in the same step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mstkd.architectures import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import Passes, Teaching


class Shared(Teaching):
    """The network sees the whole patch, learns from it, and distils what it showed into the masked one.

    The gradients of the whole patch are taken before the masked patch runs, so that the feature maps of one
    patch are held at a time: half of what two networks at once need. That is exact because the default
    objective detaches whatever the teacher shows.
    """

    def build(self) -> None:
        if self.trainer.variant == "official":
            raise MSTKDError(
                "teacher 'shared' needs the default objective: the official one lets gradients into the "
                "teacher's side; set teacher 'joint'"
            )

    def passes(self, batch: MaskedBatch) -> Passes:
        trainer, network = self.trainer, self.trainer.network
        with network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext():
            teacher = network(batch.data, **trainer.tap_request)
            segmentation = trainer.loss(teacher.logits, batch.target)
            trainer.backward(trainer.config.teacher_segmentation * segmentation)
        student = network(batch.masked, **trainer.tap_request)
        return Passes(student, _detached(teacher), {"teacher_segmentation": segmentation.detach()})


def _detached(taps: NetworkTaps) -> NetworkTaps:
    def detach(value: Any) -> Any:
        if value is None:
            return None
        return value.detach() if isinstance(value, Tensor) else [level.detach() for level in value]

    return NetworkTaps(**{name: detach(value) for name, value in vars(taps).items()})
