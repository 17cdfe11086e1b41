"""A training in two phases, all modalities first, then masking, and the learning rate through both."""

from __future__ import annotations

from dataclasses import dataclass

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer


@dataclass(frozen=True)
class Phases:
    """When the full-modality phase ends.

    Attributes:
        num_epochs: epochs in all.
        full_epochs: how many of them, from the first, train on all modalities; may be 0.
    """

    num_epochs: int
    full_epochs: int

    @classmethod
    def from_fraction(cls, num_epochs: int, fraction: float) -> Phases:
        """Phases for a share of the epochs; one epoch of each at least, when there are two and a share."""
        if fraction <= 0:
            return cls(num_epochs, 0)
        return cls(num_epochs, min(max(1, round(fraction * num_epochs)), num_epochs - 1))

    def is_full(self, epoch: int) -> bool:
        """Whether ``epoch`` trains on all modalities."""
        return epoch < self.full_epochs

    def position(self, epoch: int) -> tuple[int, int]:
        """(epochs into the running phase, epochs of that phase)."""
        if self.is_full(epoch):
            return epoch, self.full_epochs
        return epoch - self.full_epochs, self.num_epochs - self.full_epochs


class PhasedPolyLRScheduler(PolyLRScheduler):
    """nnU-Net's polynomial decay (exponent 0.9) over both phases, or restarted when the phase changes.

    Args:
        optimizer: its learning rate is set.
        initial_lr: at the start.
        phases: when the phase changes.
        restart: share of ``initial_lr`` at which the masking phase starts; 0 is no restart, one decay over
            both phases. Means nothing without a full-modality phase.
        lead: epochs by which the schedule runs ahead (1 for MST-KDNet's script, which steps its scheduler
            before the epoch; its last epoch then has learning rate 0).
        warm_up: epochs, from the first, in which the learning rate rises in equal steps to ``initial_lr``;
            the (first) decay has the epochs that remain.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        initial_lr: float,
        phases: Phases,
        lead: int = 0,
        restart: float = 0.0,
        warm_up: int = 0,
    ) -> None:
        self.phases = phases
        self.lead = lead
        self.restart = restart
        self.warm_up = warm_up
        super().__init__(optimizer, initial_lr, phases.num_epochs)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step``."""
        if current_step is None or current_step < 0:
            current_step = self.ctr
            self.ctr += 1
        current_step = min(current_step, self.phases.num_epochs - 1)
        epoch, length, peak = self._decay(current_step)
        if epoch < 0:
            lr = peak * (epoch + self.warm_up + 1) / self.warm_up
        else:
            lr = peak * max(0.0, 1 - (epoch + self.lead) / max(length, 1)) ** self.exponent
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _decay(self, step: int) -> tuple[int, int, float]:
        """(epochs into the running decay, below 0 while warming up; its length; where it starts)."""
        if not self.restart:
            return step - self.warm_up, self.phases.num_epochs - self.warm_up, self.initial_lr
        epoch, length = self.phases.position(step)
        if self.phases.full_epochs > 0 and not self.phases.is_full(step):
            return epoch, length, self.initial_lr * self.restart
        return epoch - self.warm_up, length - self.warm_up, self.initial_lr
