"""``nnUNetv2_mstkd prepare``: cases as a complete input folder for plain nnUNetv2_predict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.arguments import (
    add_modalities_argument,
    add_model_arguments,
    chosen_modalities,
    chosen_model,
)
from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import check_folders, writable_folder
from nnunetv2_mstkd.modalities import BRATS_MODALITIES
from nnunetv2_mstkd.models.folder import (
    channel_names,
    dataset_modalities,
    image_axes,
    read_dataset_json,
)

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.discovery import Case
    from nnunetv2_mstkd.inference.prepare import InputFolder
    from nnunetv2_mstkd.modalities import Subset


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd prepare",
        description="Writes cases as a flat nnU-Net folder: links, and placeholders for what is absent.",
        epilog="Without a model or --dataset_json, channels are in the order of nnUNetv2_mstkd convert.",
    )
    add_source_arguments(parser)
    parser.add_argument("-o", metavar="DIR", type=Path, required=True, help="folder for nnUNetv2_predict -i")
    add_model_arguments(parser, any_configuration=True)
    parser.add_argument(
        "--dataset_json", metavar="FILE", type=Path, help="the channels' names and order, instead of a model"
    )
    add_modalities_argument(parser)
    parser.add_argument("--copy", action="store_true", help="copy the files instead of linking them")
    parser.add_argument("-npp", type=int, default=3, help="threads that read and write (default 3)")
    parser.add_argument("--disable_progress_bar", action="store_true", help="no bar and no line per case")
    return parser


def run(argv: Sequence[str]) -> int:
    """Prepare and report; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.discovery import discover

    output = _output(arguments)
    wanted = chosen_modalities(arguments.modalities, output.modalities)
    source, rules = chosen_source(arguments), chosen_rules(arguments)
    check_folders(source, arguments.o)
    found = discover(source, output.modalities, file_ending=output.file_ending, rules=rules)
    problems = dict(found.problems)
    if found.cases:
        writable_folder(arguments.o)
        problems |= _prepare(arguments, found.cases, wanted, output)
    done = len(found.cases) + len(found.problems) - len(problems)
    failed = f", {len(problems)} failed" if problems else ""
    print(f"{arguments.o}: {done} case(s) as {len(output.modalities)} channels each{failed}")
    return report_problems(problems)


def _output(arguments: argparse.Namespace) -> InputFolder:
    """Channels, file ending and normalisation, from the most telling source that was named."""
    from nnunetv2_mstkd.inference.placeholders import normalisation_by_name, normalisation_of_model
    from nnunetv2_mstkd.inference.prepare import InputFolder

    named = [flag for flag in (arguments.d, arguments.m, arguments.dataset_json) if flag is not None]
    if len(named) > 1:
        raise MSTKDError("give only one of -d, -m and --dataset_json")
    if arguments.dataset_json is not None:
        content = read_dataset_json(arguments.dataset_json)
        modalities, ending = dataset_modalities(content), str(content["file_ending"])
        normalisation, axes = normalisation_by_name(channel_names(content)), image_axes(content)
    elif named:
        model = chosen_model(arguments, any_configuration=True)
        modalities, ending = model.modalities, model.file_ending
        normalisation, axes = normalisation_of_model(model), model.image_axes
    else:
        modalities, ending = BRATS_MODALITIES, ".nii.gz"
        normalisation, axes = normalisation_by_name(modalities), (3,)
        order = ", ".join(modalities)
        print(f"no model named: channels are {order}, as nnUNetv2_mstkd convert has them", file=sys.stderr)
    return InputFolder(arguments.o, ending, modalities, normalisation, arguments.copy, axes)


def _prepare(
    arguments: argparse.Namespace, cases: Sequence[Case], wanted: Subset, output: InputFolder
) -> dict[str, str]:
    """Write the cases; returns what failed and why."""
    from nnunetv2_mstkd.inference.folder import one_line
    from nnunetv2_mstkd.inference.pipeline import concurrently
    from nnunetv2_mstkd.inference.prepare import prepare_case

    problems = {}
    with CaseProgress(len(cases), "preparing", disable=arguments.disable_progress_bar) as bar:
        for outcome in concurrently(
            cases, lambda case: prepare_case(case, output, wanted), threads=arguments.npp
        ):
            bar.update(outcome.item.name, "+".join(outcome.result.used) if outcome.result else None)
            if outcome.error is not None:
                problems[outcome.item.name] = one_line(outcome.error)
    return problems
