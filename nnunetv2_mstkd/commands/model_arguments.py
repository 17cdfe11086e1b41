"""Flags that several commands share: which model, which modalities."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.model_folder import ModelFolder, find_model_folder, open_model_folder
from nnunetv2_mstkd.modalities import Subset, parse_subset

DEFAULT_TRAINER = "nnUNetTrainerMSTKD"
DEFAULT_PLANS = "nnUNetMSTKDPlans"


def add_model_arguments(parser: argparse.ArgumentParser, *, any_configuration: bool = False) -> None:
    """Add -d with -tr, -p and -c as nnUNetv2_predict has them, or -m for a folder.

    Args:
        any_configuration: -c may be left out.
    """
    group = parser.add_argument_group(
        "model (-d, or -m)" if any_configuration else "model (-d with -c, or -m)"
    )
    which = "default: the first there is" if any_configuration else "e.g. 3d_fullres"
    group.add_argument(
        "-d", metavar="DATASET", help="data set of the model, id or name; needs nnUNet_results"
    )
    # The defaults are filled in later: with -m these flags must not be given.
    group.add_argument("-tr", metavar="TRAINER", help=f"trainer of the model (default {DEFAULT_TRAINER})")
    group.add_argument("-p", metavar="PLANS", help=f"plans of the model (default {DEFAULT_PLANS})")
    group.add_argument("-c", metavar="CONFIGURATION", help=f"configuration of the model ({which})")
    group.add_argument(
        "-m", metavar="MODEL_FOLDER", type=Path, help="the model's TRAINER__PLANS__CONFIGURATION folder"
    )


def chosen_model(arguments: argparse.Namespace, *, any_configuration: bool = False) -> ModelFolder:
    """The model that the flags name.

    Args:
        any_configuration: -c may be left out.

    Raises:
        MSTKDError: the flags contradict each other or name no model.
    """
    if (arguments.d is None) == (arguments.m is None):
        raise MSTKDError("name the model either by -d DATASET -c CONFIGURATION or by -m MODEL_FOLDER")
    if arguments.m is not None:
        if arguments.tr or arguments.p or arguments.c:
            raise MSTKDError("-tr, -p and -c belong to -d; with -m leave them away")
        return open_model_folder(arguments.m)
    if arguments.c is None and not any_configuration:
        raise MSTKDError("-d needs -c CONFIGURATION, for example -c 3d_fullres")
    trainer, plans = arguments.tr or DEFAULT_TRAINER, arguments.p or DEFAULT_PLANS
    return open_model_folder(find_model_folder(arguments.d, trainer, plans, arguments.c or "*"))


def add_trust_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --trust_checkpoint."""
    parser.add_argument(
        "--trust_checkpoint",
        action="store_true",
        help="read checkpoints that hold more than nnU-Net stores; code in them will run",
    )


def add_modalities_argument(parser: argparse.ArgumentParser) -> None:
    """Add --modalities."""
    parser.add_argument(
        "--modalities",
        nargs="+",
        metavar="NAME",
        help="use only these, e.g. t1c t2f (or t1c+t2f; older names as T1Gd and FLAIR are understood)",
    )


def chosen_modalities(names: Sequence[str] | None, modalities: Sequence[str]) -> Subset:
    """The modalities that --modalities names; all of them without it.

    Raises:
        MSTKDError: one is not among ``modalities``.
    """
    return frozenset(modalities) if names is None else parse_subset("+".join(names), modalities)
