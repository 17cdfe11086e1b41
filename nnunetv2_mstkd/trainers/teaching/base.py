"""What the ways of having a teacher have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import MaskedBatch

TEACHER_SEGMENTATION = "teacher_segmentation"


@dataclass(frozen=True)
class Passes:
    """What both networks show of a batch.

    Attributes:
        student: of the masked patches.
        teacher: of the whole patches, or of what teaches instead of them.
        done: terms whose gradients were taken on the way, unweighted.
    """

    student: NetworkTaps
    teacher: NetworkTaps
    done: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherChoice:
    """What the settings say of the teacher.

    Attributes:
        source: one of ``settings.TEACHERS``, or a model folder.
        fold: of a model folder; ``None`` is the fold that is trained.
        checkpoint: of that fold.
        starts_student: the student starts from a model's weights where names and shapes agree.
        gets_gradients: the method's terms lead gradients into the teacher too.
    """

    source: str
    fold: Fold | None = None
    checkpoint: str = FINAL_CHECKPOINT
    starts_student: bool = True
    gets_gradients: bool = False


class Teaching:
    """Where the teacher of a training comes from; as it stands here, from nowhere.

    The trainer calls :meth:`build` once its network exists, :meth:`distribute` once that is wrapped for
    DDP, :meth:`start_epoch` before each epoch of the masking phase, :meth:`run` in each of its steps.

    Attributes:
        learns: the teacher's segmentation loss is a term of the objective.
    """

    learns: ClassVar[bool] = False

    def __init__(self, trainer: nnUNetTrainerMissingModality, choice: TeacherChoice) -> None:
        self.trainer = trainer
        self.choice = choice

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

    def check_first_epoch(self) -> None:
        """Check that a teacher that was not restored begins with the first epoch of the masking phase.

        Raises:
            MSTKDError: the phase has begun, with a teacher that the checkpoint does not hold.
        """
        if self.trainer.current_epoch != self.trainer.phases.full_epochs:
            raise MSTKDError(
                "this checkpoint holds no teacher (checkpoint_final keeps the student only), so its "
                "distillation cannot go on; continue from checkpoint_latest.pth or checkpoint_best.pth"
            )

    def arranged(self, batch: MaskedBatch) -> MaskedBatch:
        """The batch of the loader as a step of the masking phase takes it."""
        return batch

    def run(self, batch: MaskedBatch, request: Request) -> Passes:
        """Run both, the teacher first: a frozen one's feature maps are gone when the student's come.

        Args:
            batch: whole patches, masks and targets.
            request: the taps that both have to show.
        """
        teacher = self.teacher_taps(batch, request)
        return Passes(self.trainer.network(batch.masked, return_taps=request), teacher)

    def teacher_taps(self, batch: MaskedBatch, request: Request) -> NetworkTaps:
        """Run the teacher."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any] | None:
        """For checkpoints that a training continues from; ``None`` if there is nothing to keep."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
