"""``stop_after.py EPOCHS ARGUMENTS``: nnUNetv2_train, killed at the end of an epoch."""

from __future__ import annotations

import os
import signal
import sys

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality

EPOCHS = int(sys.argv[1])
finish_epoch = nnUNetTrainerMissingModality.on_epoch_end


def finish_epoch_and_die(trainer: nnUNetTrainerMissingModality) -> None:
    finish_epoch(trainer)
    if trainer.current_epoch == EPOCHS:
        os.kill(os.getpid(), signal.SIGKILL)


nnUNetTrainerMissingModality.on_epoch_end = finish_epoch_and_die
sys.exit(main(["train", *sys.argv[2:]]))
