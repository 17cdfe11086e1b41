"""What the ways of having a teacher have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.step import MaskedBatch

if TYPE_CHECKING:
    from nnunetv2_mstkd.trainers.teaching.trainer import nnUNetTrainerDistilling


@dataclass(frozen=True)
class Passes:
    """What both networks show of a batch.

    Attributes:
        student: of the masked patches.
        teacher: of the whole patches.
        done: terms whose gradients were taken on the way, unweighted.
    """

    student: NetworkTaps
    teacher: NetworkTaps
    done: Mapping[str, Tensor] = field(default_factory=dict)


class Teaching:
    """Where the teacher of a training comes from.

    The trainer calls :meth:`build` once its network exists, :meth:`distribute` once that is wrapped for
    DDP, :meth:`start_epoch` before each epoch of the masking phase, :meth:`passes` in each of its steps.

    Attributes:
        learns: the teacher's segmentation loss is a term of the objective.
    """

    learns: ClassVar[bool] = False

    def __init__(self, trainer: nnUNetTrainerDistilling) -> None:
        self.trainer = trainer

    def build(self) -> None:
        """Make the networks that this needs beside the student."""

    def shapes(self, student: NetworkTaps) -> NetworkTaps:
        """The teacher's taps as tensors without storage, given the student's for the same input."""
        return student

    def distribute(self) -> None:
        """Wrap what learns for DDP."""

    def parameters(self) -> list[nn.Parameter]:
        """What the main optimizer updates beside the student."""
        return []

    def start_epoch(self) -> None:
        """Get ready for an epoch of the masking phase."""

    def refuse_a_late_beginning(self) -> None:
        """A teacher that learns here can only begin where the masking phase does; later, it must be stored.

        Raises:
            MSTKDError: the phase has begun, with a teacher that the checkpoint does not hold.
        """
        if self.trainer.current_epoch != self.trainer.phases.full_epochs:
            raise MSTKDError(
                "this checkpoint holds no teacher (checkpoint_final keeps the student only), so its "
                "distillation cannot go on; continue from checkpoint_latest.pth or checkpoint_best.pth"
            )

    def passes(self, batch: MaskedBatch) -> Passes:
        """Run both, the teacher first: a frozen one's feature maps are gone when the student's come."""
        teacher = self.teacher_taps(batch)
        return Passes(self.trainer.network(batch.masked, **self.trainer.tap_request), teacher)

    def teacher_taps(self, batch: MaskedBatch) -> NetworkTaps:
        """Run the teacher."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any] | None:
        """For checkpoints that a training continues from; ``None`` if there is nothing to keep."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
