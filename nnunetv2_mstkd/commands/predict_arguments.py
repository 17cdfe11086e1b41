"""Flags, short forms and defaults of nnUNetv2_predict, for every command that runs a network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.model_folder import FINAL_CHECKPOINT, Fold

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add_window_arguments(
    parser: Parser, *, folds: str = "default 0 1 2 3 4; with -m those there are"
) -> None:
    """Which checkpoints, and how the window slides.

    Args:
        folds: what -f means where it is left out.
    """
    add, switch = parser.add_argument, "store_true"
    add(
        "-f",
        nargs="+",
        metavar="FOLD",
        help=f"folds, or all ({folds})",
    )
    add("-chk", default=FINAL_CHECKPOINT, help=f"checkpoint file (default {FINAL_CHECKPOINT})")
    add("-step_size", type=float, default=0.5, help="step of the sliding window, in patches (default 0.5)")
    add("--disable_tta", action=switch, help="no mirroring: faster, slightly less accurate")
    add("--verbose", action=switch, help="show what nnU-Net says")


def add_thread_arguments(parser: Parser) -> None:
    """How many threads work beside the network."""
    npp, nps = (os.environ.get(f"nnUNet_{name}", "3") for name in ("npp", "nps"))  # nnU-Net's own
    add = parser.add_argument
    add("-npp", type=int, default=npp, help="threads that read and preprocess (default 3)")
    add("-nps", type=int, default=nps, help="threads that resample and write (default 3)")


def add_sharing_arguments(parser: Parser) -> None:
    """Several runs that share the cases."""
    add = parser.add_argument
    add("-num_parts", type=int, default=1, help="number of runs that share the cases (default 1)")
    add("-part_id", type=int, default=0, help="which of them this is, from 0 (default 0)")


def add_device_arguments(parser: Parser) -> None:
    """Where the network runs, and what is shown of it."""
    add, switch = parser.add_argument, "store_true"
    add(
        "-device",
        choices=("cuda", "cpu", "mps"),
        default="cuda",
        help="device of the network (default cuda)",
    )
    add("--disable_progress_bar", action=switch, help="no bar and no line per case")
    add("--not_on_device", action=switch, help="keep large intermediate results off the GPU")


def check_numbers(arguments: argparse.Namespace) -> None:
    """What argparse cannot check.

    Raises:
        MSTKDError: a number is out of range.
    """
    if not 0 < arguments.step_size <= 1:
        raise MSTKDError(f"-step_size {arguments.step_size} is not in (0, 1]; the default is 0.5")
    if min(arguments.npp, arguments.nps) < 0:
        raise MSTKDError("-npp and -nps are numbers of threads, at least 0 (which counts as 1)")


def chosen_folds(arguments: argparse.Namespace) -> Sequence[Fold] | None:
    """Folds as nnU-Net counts them; None leaves the choice to what is there."""
    if arguments.f is None:
        return None if arguments.m is not None else (0, 1, 2, 3, 4)
    for fold in arguments.f:
        if fold != "all" and not fold.isdecimal():
            raise MSTKDError(f"-f {fold} is no fold; give numbers, or all")
    return tuple(fold if fold == "all" else int(fold) for fold in arguments.f)


def loading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``MissingModalityPredictor.load``."""
    return {
        "checkpoint_name": arguments.chk,
        "device": arguments.device,
        "step_size": arguments.step_size,
        "mirroring": not arguments.disable_tta,
        "everything_on_device": not arguments.not_on_device,
        "verbose": arguments.verbose,
        "trust_checkpoint": arguments.trust_checkpoint,
    }
