"""``nnUNetv2_mstkd train``: nnUNetv2_train with the trainers in reach."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE, activate, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError

_HELP = """nnUNetv2_mstkd train: nnUNetv2_train with this plugin's trainers in reach. One flag of its own:
  --gradient_shares N   every N iterations, log each objective term's gradient as a share of the
                        segmentation gradient and its cosine with it (costs a backward pass per term)
"""


def _parser() -> argparse.ArgumentParser:
    # No help, no abbreviations: everything but our own flag belongs to nnUNetv2_train.
    parser = argparse.ArgumentParser(prog="nnUNetv2_mstkd train", add_help=False, allow_abbrev=False)
    parser.add_argument("--gradient_shares", type=int, metavar="N")
    return parser


def _check_devices(theirs: Sequence[str]) -> None:
    """Refuse what nnU-Net would fail at in processes of its own, or in the middle of starting.

    Raises:
        MSTKDError: more processes than GPUs, or several on another device.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-num_gpus", type=int, default=1)
    parser.add_argument("-device", default="cuda")
    given, _ = parser.parse_known_args(theirs)
    if given.num_gpus <= 1:
        return
    if given.device != "cuda":
        raise MSTKDError(f"-num_gpus {given.num_gpus} needs GPUs, not -device {given.device}; leave one out")
    import torch

    if torch.cuda.device_count() < given.num_gpus:
        raise MSTKDError(
            f"-num_gpus {given.num_gpus}, but this process sees {torch.cuda.device_count()} GPUs; "
            "lower it, or check CUDA_VISIBLE_DEVICES"
        )


def run(argv: Sequence[str]) -> int:
    """Pass everything on to ``nnUNetv2_train``, with ``nnUNet_extTrainer`` set."""
    ours, theirs = _parser().parse_known_args(argv)
    activate()
    if {"-h", "--help"}.intersection(theirs):
        print(_HELP)
    else:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            nnunet_folder(variable)
        _check_devices(theirs)
    if ours.gradient_shares is not None:
        if ours.gradient_shares < 1:
            raise MSTKDError(f"--gradient_shares is {ours.gradient_shares}; give a number of iterations")
        os.environ[GRADIENT_SHARES_VARIABLE] = str(ours.gradient_shares)
    from nnunetv2.run.run_training import run_training_entry

    sys.argv = ["nnUNetv2_train", *theirs]
    run_training_entry()
    return 0
