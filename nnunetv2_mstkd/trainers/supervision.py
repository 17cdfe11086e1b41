"""Deep supervision where there is something to supervise."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def supervise_one_scale_plainly(trainer: nnUNetTrainer) -> None:
    """Switch deep supervision off for a network of two stages, whose decoder has a single output.

    nnU-Net leaves the lowest output out by a weight of 0 and divides by the sum of the weights: with one
    output that is 0 / 0, and the loss is nan.
    """
    if trainer.enable_deep_supervision and len(trainer._get_deep_supervision_scales()) < 2:
        trainer.enable_deep_supervision = False
        trainer.print_to_log_file("One decoder stage: training without deep supervision.")
