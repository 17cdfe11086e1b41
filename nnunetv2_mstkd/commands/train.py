"""``nnUNetv2_mstkd train``: nnUNetv2_train with the trainers in reach."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.arguments import add_trust_argument
from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE, activate, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2_mstkd.commands.pretrained import Pretrained

_HELP = """nnUNetv2_mstkd train: nnUNetv2_train with this plugin's trainers in reach. Name trainer and plans
(-tr, -p): without them stock nnUNetTrainer is trained on nnUNetPlans. Flags of its own:
  --gradient_shares N   every N iterations, log each objective term's gradient as a share of the
                        segmentation gradient and its cosine with it (costs a backward pass per term)
  --trust_checkpoint    read checkpoints that hold more than nnU-Net stores; code in them will run
-pretrained_weights also takes weights of other input channels and of nnssl's pre-training (docs/recipes.md)
"""
_PRETRAINED = "-pretrained_weights"
# How a traceback names the errors that are meant to be read.
_FOR_THE_USER = f"{MSTKDError.__module__}.{MSTKDError.__qualname__}: "


def _parser() -> argparse.ArgumentParser:
    # No help, no abbreviations: everything but our own flags belongs to nnUNetv2_train.
    parser = argparse.ArgumentParser(prog="nnUNetv2_mstkd train", add_help=False, allow_abbrev=False)
    parser.add_argument("--gradient_shares", type=int, metavar="N")
    add_trust_argument(parser)
    return parser


def _told_by_a_process(error: Exception) -> str | None:
    """What a training process of ``-num_gpus`` ended with, if it was meant for the user."""
    last = [line for line in str(error).splitlines() if line.startswith(_FOR_THE_USER)]
    return last[-1].removeprefix(_FOR_THE_USER) if last else None


def _check(theirs: Sequence[str], *, trust: bool) -> Pretrained | None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        nnunet_folder(variable)
    from nnunetv2_mstkd.commands.train_checks import check_training
    from nnunetv2_mstkd.models.checkpoint_files import TRUST_VARIABLE

    if trust:
        os.environ[TRUST_VARIABLE] = "1"  # reaches the trainers, and the processes of -num_gpus
    return check_training(theirs)


def run(argv: Sequence[str]) -> int:
    """Pass everything on to ``nnUNetv2_train``, with ``nnUNet_extTrainer`` set."""
    ours, theirs = _parser().parse_known_args(argv)
    activate()
    if ours.gradient_shares is not None:
        if ours.gradient_shares < 1:
            raise MSTKDError(f"--gradient_shares is {ours.gradient_shares}; give a number of iterations")
        os.environ[GRADIENT_SHARES_VARIABLE] = str(ours.gradient_shares)
    pretrained = None
    if {"-h", "--help"}.intersection(theirs):
        print(_HELP)
    else:
        pretrained = _check(theirs, trust=ours.trust_checkpoint)
    if pretrained is None:
        return _train(theirs)
    with pretrained.fitting_file() as file:
        others = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        others.add_argument(_PRETRAINED)
        return _train([*others.parse_known_args(theirs)[1], _PRETRAINED, str(file)])


def _train(theirs: Sequence[str]) -> int:
    from nnunetv2.run.run_training import run_training_entry
    from torch.multiprocessing import ProcessRaisedException

    sys.argv = ["nnUNetv2_train", *theirs]
    try:
        run_training_entry()
    except ProcessRaisedException as error:
        message = _told_by_a_process(error)
        if message is None:
            raise
        raise MSTKDError(message) from error
    return 0
