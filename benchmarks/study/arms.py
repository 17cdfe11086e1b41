"""The ways of training that are compared, and how long each may train.

Compute is counted in student steps: a forward and a backward pass of the network over a batch is one. The
forward pass is a third of it, because a convolution's backward pass multiplies twice as much. So a step with
a frozen teacher's forward pass is 4/3, one with two learning passes is 2. Losses and the discriminator are
left out: ``benchmarks.study.results`` prints the measured times beside. A step of another network than
MSTKDNet is counted by multiply-adds (``cost``), on the plans of the study; stock nnU-Net and the published
method get the number of steps of another arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

FORWARD = 1 / 3
LEARNING_PASS = 1.0

# Whose network, and so which plans: ours, that of nnU-Net's planner, the published one, the method's own in
# the shape of the first's plans.
NETWORKS = ("mstkdnet", "plans", "official", "own")

# Which cases of a fold an arm trains on: all with their segmentations; a few patients, the others without; a
# few, the others as a model segmented them.
ALL, FEW, PSEUDO = "all", "few", "pseudo"

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        key: name of folders and plans.
        title: name in tables.
        trainer: class that nnU-Net trains with.
        full_share: share of the compute that is spent on all modalities before masking starts.
        step_cost: student steps that one step under masking costs, for its own network; ``None`` where it
            is counted, in student steps of MSTKDNet.
        full_cost: of a step on all modalities, in steps under masking, where these are counted.
        seeds: how many seeds the study runs.
        steps_like: key of the arm whose number of steps is taken instead of equal compute.
        settings: for the plans' ``"mstkd"`` dict, beyond length, seed and optimizer.
        network: one of ``NETWORKS``.
        own_optimizer: keep the trainer's optimizer and learning rate instead of the study's.
        sizes: names of the sizes it is run at; empty is all.
        log_shares: steps between two measurements of gradient shares for the log; 0 is none.
        masks: whether it ever sees a masked patch; where not, all its steps are on all modalities.
        cases: ``ALL``, ``FEW`` or ``PSEUDO``.
    """

    key: str
    title: str
    trainer: str
    full_share: float
    step_cost: float | None
    seeds: int
    steps_like: str | None = None
    settings: Settings = ()
    network: str = "mstkdnet"
    own_optimizer: bool = False
    sizes: tuple[str, ...] = ()
    log_shares: int = 0
    masks: bool = True
    cases: str = ALL
    full_cost: float = 1.0

    def changed(self, key: str, title: str, settings: Settings) -> Arm:
        """This arm with settings more, under another name."""
        return replace(self, key=key, title=title, settings=(*self.settings, *settings))


WITH_FROZEN = LEARNING_PASS + FORWARD
TWICE = 2 * LEARNING_PASS

BAR = "dropout_after_full"
METHOD = "warm_start"
PLAIN = "plain_student"
ABLATIONS = ("wo_mstkd", "wo_gsme", "wo_slkd")

_DROPOUT = "nnUNetTrainerModalityDropout"
_ALL = (("sampler", "weights"), ("subset_weights", {"t1n+t1c+t2w+t2f": 1}))

ARMS = {
    arm.key: arm
    for arm in (
        # MSTKDNet under a sampler that always draws the whole set, with the optimizer that all share: what
        # differs from modality dropout is the masking alone.
        Arm(
            "zero_filled",
            "no masking (zero-filled)",
            _DROPOUT,
            0.0,
            LEARNING_PASS,
            3,
            settings=_ALL,
            masks=False,
        ),
        Arm("dropout", "modality dropout", _DROPOUT, 0.0, LEARNING_PASS, 3),
        Arm(BAR, "modality dropout after a full phase", _DROPOUT, 0.5, LEARNING_PASS, 3),
        Arm(METHOD, "MSTKD (warm start)", "nnUNetTrainerMSTKD", 0.5, WITH_FROZEN, 3),
        Arm("joint", "MSTKD, joint teacher", "nnUNetTrainerMSTKDJoint", 0.0, TWICE, 3),
        Arm("shared", "MSTKD, shared network", "nnUNetTrainerMSTKDShared", 0.0, TWICE, 3),
        Arm(
            PLAIN,
            "plain student (steps of MSTKD)",
            "nnUNetTrainerMSTKD_PlainStudent",
            0.5,
            LEARNING_PASS,
            3,
            steps_like=METHOD,
        ),
        Arm(
            "dropout_joint_steps",
            "modality dropout (steps of joint)",
            _DROPOUT,
            0.0,
            LEARNING_PASS,
            3,
            steps_like="joint",
        ),
        # nnUNetTrainer itself at the study's length: its own network, SGD, learning rate.
        Arm(
            "stock",
            "stock nnU-Net, zero-filled",
            "nnUNetTrainerFullModality",
            0.0,
            LEARNING_PASS,
            3,
            steps_like="zero_filled",
            network="plans",
            own_optimizer=True,
            masks=False,
        ),
        Arm("wo_mstkd", "MSTKD without MS-TKD", "nnUNetTrainerMSTKD_woTransformerKD", 0.5, WITH_FROZEN, 1),
        Arm("wo_gsme", "MSTKD without GSME", "nnUNetTrainerMSTKD_woGSME", 0.5, WITH_FROZEN, 1),
        # Three seeds, because its first one stood out.
        Arm("wo_slkd", "MSTKD without SLKD", "nnUNetTrainerMSTKD_woSLKD", 0.5, WITH_FROZEN, 3),
        # The published network and objective; on a GPU only. Not run yet.
        Arm(
            "official",
            "MST-KDNet as released (steps of joint)",
            "nnUNetTrainerMSTKDOfficial",
            0.0,
            TWICE,
            3,
            steps_like="joint",
            network="official",
            own_optimizer=True,
            sizes=("gpu",),
        ),
    )
}


def epochs_of(arm: Arm, budget: int, counted: float | None = None) -> tuple[int, int]:
    """Epochs (on all modalities, under masking) that ``budget`` epochs of student steps pay for.

    Args:
        arm: whose.
        budget: epochs of student steps.
        counted: what a step under masking costs, where the arm does not say.
    """
    cost = ARMS[arm.steps_like].step_cost if arm.steps_like else arm.step_cost
    full_cost = _cost_of_full(arm, counted)
    full = round(arm.full_share * budget / full_cost)
    return full, max(1, round((budget - full * full_cost) / _known(cost, counted)))


def compute_of(arm: Arm, budget: int, counted: float | None = None) -> float:
    """What the arm's epochs cost, in epochs of student steps; of its own network, if it states its cost."""
    full, masked = epochs_of(arm, budget, counted)
    return full * _cost_of_full(arm, counted) + masked * _known(arm.step_cost, counted)


def _cost_of_full(arm: Arm, counted: float | None) -> float:
    """A step on all modalities: a pass of our network without a teacher, or of the one that was counted."""
    return arm.full_cost * _known(None, counted) if arm.step_cost is None else LEARNING_PASS


def _known(stated: float | None, counted: float | None) -> float:
    cost = counted if stated is None else stated
    assert cost is not None
    return cost
