"""Validation with modalities missing: rotating through the subsets online, as the cases are at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunetv2_mstkd.datasets.availability import Availability
from nnunetv2_mstkd.datasets.preprocessed_availability import Preprocessed, case_availability
from nnunetv2_mstkd.modalities import Subset, all_subsets, format_subset
from nnunetv2_mstkd.trainers.history import TermHistory
from nnunetv2_mstkd.trainers.partly_frozen import nnUNetTrainerPartlyFrozen
from nnunetv2_mstkd.trainers.phases import Phases
from nnunetv2_mstkd.trainers.step import StepState
from nnunetv2_mstkd.transforms import mask_modalities
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY


class nnUNetTrainerSubsetValidation(nnUNetTrainerPartlyFrozen):
    """Each validation batch shows one subset; the mean over subsets is nnU-Net's ``mean_fg_dice``.

    A case that lacks some of the subset shows the rest, and all that it has if nothing is left; its counts
    are those of the subset that it showed. So checkpoint_best follows the mean. The mean, the Dice with all
    modalities and the Dice of every subset are in the training log; the first two are in the history as well.
    """

    network: nn.Module
    modalities: tuple[str, ...]
    rotation: SubsetRotation
    step_state: StepState
    dataset_class: Any
    phases: Phases
    _validation_batch: int = 0

    @property
    def in_full_phase(self) -> bool:
        """Whether the running epoch belongs to the phase before masking."""
        return self.phases.is_full(self.current_epoch)

    @property
    def history(self) -> TermHistory:
        """What was logged, by epoch and name."""
        return self.step_state.history

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._validation_batch = 0

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        subset = self.rotation.subset(self.current_epoch, self._validation_batch)
        self._validation_batch += 1
        rows: dict[Subset, list[int]] = {}
        for row, flags in enumerate(batch[BATCH_AVAILABLE_KEY].tolist()):
            has = frozenset(m for m, present in zip(self.modalities, flags, strict=True) if present)
            rows.setdefault(subset & has or has, []).append(row)
        data = batch["data"].to(self.device, non_blocking=True)
        parts = []
        with self._without_other_processes():
            for shown, members in rows.items():
                part = {
                    "data": self._shown(data, shown, members),
                    "target": _rows(batch["target"], members),
                }
                parts.append((shown, super().validation_step(part)))
        return {"parts": parts}

    def _shown(self, data: Tensor, shown: Subset, rows: list[int]) -> Tensor:
        """The samples ``rows`` with the modalities ``shown``."""
        mask = torch.tensor([m in shown for m in self.modalities], device=data.device)
        return mask_modalities(data[rows], mask.expand(len(rows), -1))

    @contextmanager
    def _without_other_processes(self) -> Iterator[None]:
        """Nothing in a validation step may wait for the other processes: they may have more or fewer parts.

        A Dice over the batch gathers from all of them, and DDP sends them its buffers.
        """
        network = self.network
        gathering = [m for m in self.loss.modules() if getattr(m, "ddp", False)]
        if isinstance(network, nn.parallel.DistributedDataParallel):
            self.network = network.module
        for loss in gathering:
            loss.ddp = False
        try:
            yield
        finally:
            self.network = network
            for loss in gathering:
                loss.ddp = True

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        dice = SubsetDice.empty()
        parts = [part for output in val_outputs for part in output["parts"]]
        losses = [float(output["loss"]) for _, output in parts]
        for shown, output in parts:
            dice.add(shown, np.stack([output[k] for k in ("tp_hard", "fp_hard", "fn_hard")]))
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, (dice, losses))
            dice, losses = SubsetDice.empty(), []
            for other, other_losses in gathered:
                dice.merge(other)
                losses += other_losses
        full = dice.mean_foreground(self.rotation.full)
        self.logger.log("mean_fg_dice", dice.mean(), self.current_epoch)
        self.logger.log("dice_per_class_or_region", list(dice.mean_per_class()), self.current_epoch)
        self.logger.log("val_losses", float(np.mean(losses)), self.current_epoch)
        self._log_subsets(dice, full)
        self.subsets_validated({subset: dice.mean_foreground(subset) for subset in dice.counts})

    def subsets_validated(self, dice: Mapping[Subset, float]) -> None:
        """Called once the Dice of an epoch's subsets is known, the same in all processes."""

    def _log_subsets(self, dice: SubsetDice, full: float) -> None:
        values = {"pseudo Dice/mean over subsets": dice.mean(), "pseudo Dice/all modalities": full}
        self.history.log(self.current_epoch, values)
        shown = {format_subset(s, self.modalities): round(dice.mean_foreground(s), 4) for s in dice.counts}
        self.print_to_log_file("Pseudo dice by subset", shown)
        self.print_to_log_file(
            f"Pseudo dice mean over subsets {dice.mean():.4f}, all modalities {full:.4f} "
            "(the mean selects checkpoint_best)"
        )
        if self.current_epoch == self.phases.full_epochs > 0:
            # checkpoint_best goes by this moving average: the full-modality phase must not weigh in it.
            self.logger.get_value("ema_fg_dice", None)[-1] = dice.mean()

    def case_availability(self, cases: Iterable[str]) -> Availability:
        """Which modalities each of ``cases`` has."""
        data = Preprocessed(
            self.dataset_json,
            self.modalities,
            Path(self.preprocessed_dataset_folder_base),
            Path(self.preprocessed_dataset_folder),
            self.dataset_class,
            self.print_to_log_file,
        )
        return case_availability(data, cases, store=self.local_rank == 0)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._absent_channels_at_zero():
            super().perform_actual_validation(save_probabilities)

    @contextmanager
    def _absent_channels_at_zero(self) -> Iterator[None]:
        """Let nnU-Net's final validation load cases whose absent channels are zero, as training saw them.

        Preprocessing does that to an all-zero placeholder under z-score, but not to every placeholder under
        every normalisation.
        """
        _, cases = self.do_split()
        availability = self.case_availability(cases)
        original: Any = self.dataset_class

        class _AbsentAtZero(original):
            def load_case(self, identifier: str) -> tuple[Any, ...]:
                data, *rest = super().load_case(identifier)
                flags = availability.flags(identifier)
                if not all(flags):
                    data = data[:].copy()
                    data[[not flag for flag in flags]] = 0
                return (data, *rest)

        self.dataset_class = _AbsentAtZero
        try:
            yield
        finally:
            self.dataset_class = original


def _rows(target: Tensor | list[Tensor], rows: list[int]) -> Tensor | list[Tensor]:
    return [level[rows] for level in target] if isinstance(target, list) else target[rows]


class SubsetRotation:
    """Deterministic rotation of the subsets over the validation batches.

    One batch of every epoch shows the full set, so that its Dice always exists. With n batches per epoch and
    S subsets, batch i of epoch e shows subset (e·n + i) mod S if n ≥ S; with fewer, the last batch shows the
    full set and the n - 1 others walk through the incomplete subsets, epoch after epoch. A single batch
    shows nothing but the full set.

    Args:
        modalities: names in channel order.
        batches_per_epoch: n.
    """

    def __init__(self, modalities: Sequence[str], batches_per_epoch: int) -> None:
        self.subsets = all_subsets(modalities)
        self.full = frozenset(modalities)
        self.incomplete = [subset for subset in self.subsets if subset != self.full]
        self.batches_per_epoch = batches_per_epoch

    def subset(self, epoch: int, batch: int) -> Subset:
        """The subset that validation batch ``batch`` of ``epoch`` shows."""
        schedule = self._schedule(epoch)
        return schedule[batch % len(schedule)]

    def _schedule(self, epoch: int) -> list[Subset]:
        if self.batches_per_epoch >= len(self.subsets):
            return _walk(self.subsets, epoch, self.batches_per_epoch)
        return [*_walk(self.incomplete, epoch, self.batches_per_epoch - 1), self.full]


def _walk(subsets: Sequence[Subset], epoch: int, steps: int) -> list[Subset]:
    """``steps`` subsets of an endless walk, from where the epochs before stopped."""
    return [subsets[(epoch * steps + i) % len(subsets)] for i in range(steps)]


@dataclass
class SubsetDice:
    """Pseudo Dice per subset, from counts summed over the patches that showed it.

    Attributes:
        counts: subset → (3, K) true positives, false positives, false negatives per class or region.
    """

    counts: dict[Subset, NDArray[np.float64]]

    @classmethod
    def empty(cls) -> SubsetDice:
        """No counts yet."""
        return cls({})

    def add(self, subset: Subset, counts: NDArray[np.float64]) -> None:
        """Add the counts (3, K) of one batch."""
        self.counts[subset] = self.counts.get(subset, 0) + np.asarray(counts, dtype=float)

    def merge(self, other: SubsetDice) -> None:
        """Add the counts of another process."""
        for subset, counts in other.counts.items():
            self.add(subset, counts)

    def dice(self, subset: Subset) -> NDArray[np.float64]:
        """Dice per class or region (K,); nan where neither prediction nor reference has a voxel."""
        tp, fp, fn = self.counts[subset]
        denominator = 2 * tp + fp + fn
        return np.where(denominator > 0, 2 * tp / np.maximum(denominator, 1), np.nan)

    def mean_per_class(self) -> NDArray[np.float64]:
        """Mean over the subsets seen, per class or region (K,)."""
        return _nanmean(np.stack([self.dice(s) for s in self.counts]), axis=0)

    def mean_foreground(self, subset: Subset) -> float:
        """Mean over classes or regions for one subset; nan if it was not seen."""
        return float(_nanmean(self.dice(subset), axis=0)) if subset in self.counts else float("nan")

    def mean(self) -> float:
        """Mean over subsets of their foreground means."""
        return float(_nanmean(np.array([self.mean_foreground(s) for s in self.counts]), axis=0))


def _nanmean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """``np.nanmean`` without the warning for an all-nan slice, which is an expected case here."""
    valid = ~np.isnan(values)
    count = valid.sum(axis=axis)
    total = np.where(valid, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
