"""The ways of training that are compared, how long each may train, and the sizes of the study.

Compute is counted in student steps: a forward and a backward pass of the network over a batch is one. The
forward pass is a third of it, because a convolution's backward pass multiplies twice as much. So a step with
a frozen teacher's forward pass is 4/3, one with two learning passes is 2. Losses and the discriminator are
left out: docs/benchmarks.md has the measured times beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORWARD = 1 / 3
LEARNING_PASS = 1.0


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        key: name of folders and plans.
        title: name in tables.
        trainer: class that nnU-Net trains with.
        full_share: share of the compute that is spent on all modalities before masking starts.
        step_cost: student steps that one step under masking costs.
        seeds: how many seeds the study runs.
        steps_like: key of the arm whose number of steps is taken instead of equal compute.
        sampler: settings of the sampler of training subsets; empty is uniform over all.
    """

    key: str
    title: str
    trainer: str
    full_share: float
    step_cost: float
    seeds: int
    steps_like: str | None = None
    sampler: tuple[tuple[str, Any], ...] = ()


_WITH_FROZEN = LEARNING_PASS + FORWARD
_TWICE = 2 * LEARNING_PASS

ARMS = {
    arm.key: arm
    for arm in (
        # A sampler that always draws the whole set: stock training, but for the optimizer that all share.
        Arm(
            "zero_filled",
            "no masking (zero-filled)",
            "nnUNetTrainerModalityDropout",
            0.0,
            LEARNING_PASS,
            3,
            sampler=(("sampler", "weights"), ("subset_weights", {"t1n+t1c+t2w+t2f": 1})),
        ),
        Arm("dropout", "modality dropout", "nnUNetTrainerModalityDropout", 0.0, LEARNING_PASS, 3),
        Arm(
            "dropout_after_full",
            "modality dropout after a full phase",
            "nnUNetTrainerModalityDropout",
            0.5,
            LEARNING_PASS,
            3,
        ),
        Arm("warm_start", "MSTKD (warm start)", "nnUNetTrainerMSTKD", 0.5, _WITH_FROZEN, 3),
        Arm("joint", "MSTKD, joint teacher", "nnUNetTrainerMSTKDJoint", 0.0, _TWICE, 3),
        Arm("shared", "MSTKD, shared network", "nnUNetTrainerMSTKDShared", 0.0, _TWICE, 3),
        Arm(
            "plain_student",
            "plain student (steps of MSTKD)",
            "nnUNetTrainerMSTKD_PlainStudent",
            0.5,
            LEARNING_PASS,
            3,
            steps_like="warm_start",
        ),
        Arm("wo_mstkd", "MSTKD without MS-TKD", "nnUNetTrainerMSTKD_woMSTKD", 0.5, _WITH_FROZEN, 1),
        Arm("wo_gsme", "MSTKD without GSME", "nnUNetTrainerMSTKD_woGSME", 0.5, _WITH_FROZEN, 1),
        Arm("wo_slkd", "MSTKD without SLKD", "nnUNetTrainerMSTKD_woSLKD", 0.5, _WITH_FROZEN, 1),
    )
}
BAR = "dropout_after_full"
METHOD = "warm_start"
ABLATIONS = ("wo_mstkd", "wo_gsme", "wo_slkd")


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes:
        train: patients to train on, a fifth of whom only validate.
        test: patients to evaluate.
        shape: voxels (x, y, z) of the phantom.
        plan: sizes for ``nnUNetv2_mstkd plan``.
        epochs: compute of every arm, in epochs of student steps.
        steps: per epoch.
        learning_rate: of AdamW.
    """

    train: int
    test: int
    shape: str
    plan: str
    epochs: int
    steps: int
    learning_rate: float = 0.003


SIZES = {
    # For the test of the study itself: it runs, its numbers mean nothing.
    "tiny": Size(
        5, 2, "24 24 24", "--patch-size 16 16 16 --batch-size 2 --base-features 4 --max-stages 3", 2, 2
    ),
    # Two CPU cores, at most 90 minutes. 80 tokens.
    "small": Size(
        50, 20, "40 40 32", "--patch-size 32 40 32 --batch-size 2 --base-features 8 --max-stages 4", 40, 20
    ),
    # The planner's own network and patch, for a GPU. Not run yet.
    "gpu": Size(250, 50, "128 128 96", "", 200, 100, learning_rate=0.001),
}


def epochs_of(arm: Arm, budget: int) -> tuple[int, int]:
    """Epochs (on all modalities, under masking) that ``budget`` epochs of student steps pay for."""
    full = round(arm.full_share * budget)
    cost = ARMS[arm.steps_like].step_cost if arm.steps_like else arm.step_cost
    return full, max(1, round((budget - full) / cost))


def compute_of(arm: Arm, budget: int) -> float:
    """What the arm's epochs cost, in epochs of student steps."""
    full, masked = epochs_of(arm, budget)
    return full * LEARNING_PASS + masked * arm.step_cost
