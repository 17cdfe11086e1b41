"""What goes into a training step and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnunetv2_mstkd.trainers.data_loader import LABELLED_KEY
from nnunetv2_mstkd.trainers.gradient_shares import GradientWatch
from nnunetv2_mstkd.trainers.history import TermHistory
from nnunetv2_mstkd.transforms import mask_modalities
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY

# Names of losses, in weights and in the log.
SEGMENTATION = "segmentation"
EXPRESSION = "expression"  # what modalities lend to each other


@dataclass(frozen=True)
class MaskedBatch:
    """A training batch.

    Attributes:
        data: (B, C, ...) whole patches; a cascade's further channels follow the modalities.
        mask: (B, modalities), 1 where the student sees the modality.
        target: segmentation as nnU-Net's loss takes it (a list with deep supervision).
        complete: for each sample, whether its case has every modality.
        available: (B, modalities) bool, in the processor's memory: what the case of each sample has; ``None``
            is everything.
        leaders: where one patch stands twice: for each sample the one that shows more of the same patch, or
            itself if there is none.
        labelled: for each sample, whether its case has a segmentation; empty where all have.
    """

    data: Tensor
    mask: Tensor
    target: Tensor | list[Tensor]
    complete: tuple[bool, ...]
    available: Tensor | None = None
    leaders: tuple[int, ...] | None = None
    labelled: tuple[bool, ...] = ()

    @classmethod
    def on_device(cls, batch: Mapping[str, Any], device: torch.device, *, whole: bool) -> MaskedBatch:
        """A batch of the loader, brought to the device once.

        Args:
            batch: see :class:`~nnunetv2_mstkd.trainers.data_loader.MaskedPatchLoader`.
            device: of the networks.
            whole: the student sees every modality (full-modality phase).
        """
        mask = batch[MASK_KEY].to(device, non_blocking=True)
        target = batch["target"]
        levels = target if isinstance(target, list) else [target]
        moved = [level.to(device, non_blocking=True) for level in levels]
        return cls(
            data=batch["data"].to(device, non_blocking=True),
            mask=torch.ones_like(mask) if whole else mask,
            target=moved if isinstance(target, list) else moved[0],
            complete=tuple(batch[BATCH_AVAILABLE_KEY].all(1).tolist()),
            available=batch[BATCH_AVAILABLE_KEY],
            labelled=tuple(batch[LABELLED_KEY].tolist()) if LABELLED_KEY in batch else (),
        )

    @property
    def segmented(self) -> Tensor | None:
        """Indices (n,) of the samples whose segmentation counts; ``None`` is all of them."""
        if all(self.labelled):
            return None
        indices = [index for index, labelled in enumerate(self.labelled) if labelled]
        return torch.tensor(indices, dtype=torch.long, device=self.data.device)

    @property
    def masked(self) -> Tensor:
        """``data`` as the student sees it."""
        return mask_modalities(self.data, self.mask)

    @property
    def followers(self) -> list[int] | None:
        """Samples that have a leader; ``None`` outside of pairs."""
        if self.leaders is None:
            return None
        return [sample for sample, leader in enumerate(self.leaders) if leader != sample]


@dataclass
class StepLosses:
    """What one training step minimises.

    Attributes:
        total: the loss to take gradients of, a scalar tensor.
        terms: named unweighted parts of the loss, for the log.
        done: part of the loss whose gradients have been taken already; counts in the log only.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    done: Tensor | None = None

    def add_done(self, name: str, loss: Tensor, weight: float) -> None:
        """Log one more term whose gradients have been taken already."""
        self.terms[name] = loss
        self.done = weight * loss if self.done is None else self.done + weight * loss


@dataclass
class StepState:
    """What a step changes in its trainer, beside networks and optimizers.

    It is in one place so that a step on trial leaves no trace (see ``teaching.rehearsal``).

    Attributes:
        history: what was logged.
        judged: by discriminator: the features that it judges once the main optimizer has stepped.
        watch: measures the terms' shares of the gradient; ``None`` where nobody does.
    """

    history: TermHistory = field(default_factory=TermHistory)
    judged: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    watch: GradientWatch | None = None

    def on_trial(self) -> StepState:
        """An empty one whose first step does all that any step may do."""
        return StepState(watch=self.watch.on_trial() if self.watch else None)
