"""Flags that several commands share: which model, which modalities."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.engines import ENGINES, TORCH
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import Subset, parse_subset
from nnunetv2_mstkd.models.folder import (
    FINAL_CHECKPOINT,
    Fold,
    ModelFolder,
    find_model_folder,
    open_model_folder,
    read_dataset_json,
)
from nnunetv2_mstkd.settings import DEFAULT_TRAINER, MSTKD_PLANS


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
    group.add_argument("-p", metavar="PLANS", help=f"plans of the model (default {MSTKD_PLANS})")
    group.add_argument("-c", metavar="CONFIGURATION", help=f"configuration of the model ({which})")
    group.add_argument(
        "-m", metavar="MODEL_FOLDER", type=Path, help="the model's TRAINER__PLANS__CONFIGURATION folder"
    )


def chosen_model(arguments: argparse.Namespace, *, any_configuration: bool = False) -> ModelFolder:
    """Open the model that the flags name; see :func:`chosen_model_folder`."""
    return open_model_folder(chosen_model_folder(arguments, any_configuration=any_configuration))


def chosen_model_folder(arguments: argparse.Namespace, *, any_configuration: bool = False) -> Path:
    """Return the folder of the model that the flags name.

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
        return Path(arguments.m)
    if arguments.c is None and not any_configuration:
        raise MSTKDError("-d needs -c CONFIGURATION, for example -c 3d_fullres")
    trainer, plans = arguments.tr or DEFAULT_TRAINER, arguments.p or MSTKD_PLANS
    return find_model_folder(arguments.d, trainer, plans, arguments.c or "*")


def add_predictions_arguments(parser: argparse.ArgumentParser) -> None:
    """Add -p for a folder that predict filled, and -m for its model."""
    parser.add_argument(
        "-p", metavar="PREDICTIONS", type=Path, required=True, help="folder with the segmentations"
    )
    parser.add_argument(
        "-m", metavar="MODEL_FOLDER", type=Path, help="model, where PREDICTIONS has no dataset.json"
    )


def dataset_json_of_predictions(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the dataset.json of -p or of -m's model.

    Raises:
        MSTKDError: there is no such folder, or neither has one.
    """
    if not arguments.p.is_dir():
        raise MSTKDError(f"no folder {arguments.p}; give the -o folder of predict")
    if arguments.m is not None:
        return open_model_folder(arguments.m).dataset_json
    path = arguments.p / "dataset.json"
    if not path.is_file():
        raise MSTKDError(f"{arguments.p} has no dataset.json; give the model as -m MODEL_FOLDER")
    return read_dataset_json(path)


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


def add_output_arguments(parser: Parser) -> None:
    """Add what is made beside segmentations and statistics."""
    add, switch = parser.add_argument, "store_true"
    add(
        "--preview",
        action=switch,
        help="a picture per case (preview/CASE.png), and index.html with all of them",
    )
    add("--masks", action=switch, help="a binary file per region, masks/CASE/REGION, beside the label maps")


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
    add(
        "--engine",
        choices=ENGINES,
        default=TORCH,
        help="what runs the network on the CPU: torch (default), or openvino (faster; the extra [openvino])",
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
        "engine": arguments.engine,
        "step_size": arguments.step_size,
        "mirroring": not arguments.disable_tta,
        "everything_on_device": not arguments.not_on_device,
        "verbose": arguments.verbose,
        "trust_checkpoint": arguments.trust_checkpoint,
    }
