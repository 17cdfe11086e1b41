"""A trainer that meets an accident where a test wants one (nnU-Net finds it through nnUNet_extTrainer).

MSTKD_TEST_FAULT is ``epoch:N`` (stop in the middle of epoch N's training), ``checkpoint:N`` (stop with half
of epoch N's checkpoint on the disk) or ``worker:N`` (lose a data loading process in epoch N). Where it stops
it makes the file MSTKD_TEST_MARKER and waits for its end.
"""

from __future__ import annotations

import os
import time
from multiprocessing import Process
from pathlib import Path

import torch

from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD


def _stop_here() -> None:
    Path(os.environ["MSTKD_TEST_MARKER"]).touch()
    time.sleep(600)


def _lose(worker: Process) -> None:
    worker.kill()
    while worker.exitcode is None:  # else the next batch may come before the system has ended the process
        time.sleep(0.01)


class nnUNetTrainerFaulty(nnUNetTrainerMSTKD):
    def initialize(self):
        torch.set_num_threads(1)  # nnU-Net takes all there are; these networks are too small to gain from it
        super().initialize()

    def _now(self, kind: str) -> bool:
        return os.environ.get("MSTKD_TEST_FAULT") == f"{kind}:{self.current_epoch}"

    def train_step(self, batch):
        result = super().train_step(batch)
        if self._now("epoch"):
            _stop_here()
        if self._now("worker"):
            _lose(self.dataloader_train._processes[0])
        return result

    def save_checkpoint(self, filename):
        save = torch.save

        def half(content, target):
            save(content, target)
            if not str(target).endswith(".stock"):
                os.truncate(target, os.path.getsize(target) // 2)
                _stop_here()

        if self._now("checkpoint"):
            torch.save = half
        super().save_checkpoint(filename)

    def perform_actual_validation(self, save_probabilities=False):
        """Nothing: the tiny data set has no originals to compare with."""
