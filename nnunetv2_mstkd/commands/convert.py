"""``nnUNetv2_mstkd convert``: BraTS, FeTS or Decathlon folders as an nnU-Net raw data set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source
from nnunetv2_mstkd.datasets.formats import AUTO, FORMATS

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.convert.convert import Conversion


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd convert",
        description="Writes a complete nnU-Net raw data set and a split grouped by patient.",
    )
    add_source_arguments(parser, "--input")
    parser.add_argument(
        "-d", "--dataset-id", type=int, required=True, help="id of the new data set, 1 to 999"
    )
    parser.add_argument("--name", required=True, help="name of the new data set: DatasetXXX_NAME")
    parser.add_argument(
        "--format",
        choices=(*FORMATS, AUTO),
        required=True,
        help="release the data come from; the numbers mean different tissues",
    )
    parser.add_argument(
        "--labels", action="store_true", help="plain tissue labels instead of regions WT/TC/ET"
    )
    parser.add_argument(
        "--unlabelled",
        type=Path,
        metavar="FOLDER",
        help="train on the complete cases of this folder too, without a segmentation: they count in"
        " distillation only (the folder of -i: its cases that have none)",
    )
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    parser.add_argument("--folds", type=int, default=5, help="folds of the split (default 5)")
    parser.add_argument(
        "--seed", type=int, default=12345, help="seed of the split (default: nnU-Net's, 12345)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of this id and name")
    parser.add_argument(
        "--num-processes", type=int, default=min(8, os.cpu_count() or 1), help="processes (default: up to 8)"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Convert and say what was done; bad cases are listed on stderr, one line each."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.convert.convert import convert
    from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError

    try:
        conversion = convert(
            chosen_source(arguments),
            arguments.dataset_id,
            arguments.name,
            source_format=arguments.format,
            regions=not arguments.labels,
            copy=arguments.copy,
            folds=arguments.folds,
            seed=arguments.seed,
            num_processes=arguments.num_processes,
            overwrite=arguments.overwrite,
            unlabelled=arguments.unlabelled,
            rules=chosen_rules(arguments),
        )
    except BadCasesError as error:
        for case, reason in error.problems.items():
            print(f"{case}: {reason}", file=sys.stderr)
        raise
    for line in _summary(conversion, arguments):
        print(line)
    return 0


def _unlabelled(conversion: Conversion) -> list[str]:
    lines = []
    if conversion.unlabelled:
        lines.append(
            f"{len(conversion.unlabelled)} of them without a segmentation: in no fold; they train the"
            " distillation from a frozen teacher, and nothing else"
        )
    if conversion.segmentations_not_used:
        lines.append(f"segmentations of {conversion.segmentations_not_used} of these are not used")
    if conversion.unlabelled_left_out:
        names = ", ".join(conversion.unlabelled_left_out)
        lines.append(f"left out, not complete: {len(conversion.unlabelled_left_out)} cases ({names})")
    return lines


def _summary(conversion: Conversion, arguments: argparse.Namespace) -> list[str]:
    from nnunetv2_mstkd.datasets.availability import describe

    cases, patients = len(conversion.patients), len(set(conversion.patients.values()))
    lines = [f"{conversion.folder}: {cases} cases of {patients} patients ({conversion.format.title})"]
    lines += describe(conversion.availability)
    if conversion.availability.incomplete:
        lines.append("all-zero images stand in for what is absent; training knows of it")
    lines += _unlabelled(conversion)
    if conversion.without_segmentation:
        names = ", ".join(conversion.without_segmentation)
        lines.append(f"left out, no segmentation: {len(conversion.without_segmentation)} cases ({names})")
    if len({p for case, p in conversion.patients.items() if case not in conversion.unlabelled}) == 1:
        lines.append("one patient only: fold 0 validates on its own training case")
    elif conversion.folds < arguments.folds:
        lines.append(f"{conversion.folds} folds instead of {arguments.folds}: there are no more patients")
    lines.append(f"split by patient: {conversion.splits_file}")
    command = f"nnUNetv2_plan_and_preprocess -d {arguments.dataset_id} --verify_dataset_integrity"
    # Without --clean nnU-Net would go on with the fingerprint of the data set that was replaced.
    lines.append(f"next: {command}{' --clean' if arguments.overwrite else ''}")
    return lines
