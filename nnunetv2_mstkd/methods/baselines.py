"""Stock nnU-Net training, with nothing changed but its length and seed, and how checkpoints are written."""

from __future__ import annotations

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mstkd.settings import SETTINGS_KEY, parse_settings
from nnunetv2_mstkd.trainers.base import keep_to_thread_limit, seed_everything, supervise_one_scale_plainly
from nnunetv2_mstkd.trainers.checkpoints import SafeCheckpoints
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality


class nnUNetTrainerFullModality(SafeCheckpoints, nnUNetTrainer):
    """nnUNetTrainer at the run length of the plans: the zero-filled baseline of a fair comparison.

    Stock ``nnUNetTrainer`` always runs 1000 epochs of 250 iterations. This one reads ``num_epochs``,
    ``num_iterations_per_epoch``, ``num_val_iterations_per_epoch``, ``save_every``, ``seed`` and
    ``enable_deep_supervision`` from the ``"mstkd"`` dict, as the other trainers here do (plans of a network
    with a single head say ``false``); loss, network, optimizer and data are untouched, and it never sees a
    missing modality in training.
    """

    _READ = (
        "num_epochs",
        "num_iterations_per_epoch",
        "num_val_iterations_per_epoch",
        "save_every",
        "seed",
        "enable_deep_supervision",
    )
    seed: int | None = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own default
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        keep_to_thread_limit(device)
        given = parse_settings(self.configuration_manager.configuration.get(SETTINGS_KEY)).given()
        for name in self._READ:
            if name in given:
                setattr(self, name, given[name])

    def initialize(self) -> None:
        if self.seed is not None:
            seed_everything(self.seed, "initialize")
        supervise_one_scale_plainly(self)
        super().initialize()

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.seed is not None:
            seed_everything(self.seed, self.current_epoch, self.local_rank)


class nnUNetTrainerModalityDropout(nnUNetTrainerMissingModality):
    """nnU-Net with modality dropout: from scratch, or after a full-modality phase (``full_phase``).

    Network, loss, optimizer and augmentation are nnU-Net's; a random subset of the modalities of each
    training patch is kept. Any distillation has to beat this at equal compute (docs/methods.md).
    """
