"""``nnUNetv2_mstkd preprocess``: register and skull-strip raw scans with brainles-preprocessing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.channels import add_channel_arguments, chosen_channels
from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import check_folders, writable_folder
from nnunetv2_mstkd.modalities import resolve

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.brain_preprocessing import Preprocessing
    from nnunetv2_mstkd.datasets.discovery import Case

_EPILOG = """OUT gets CASE/CASE-t1c.nii.gz ..., which predict -i OUT takes; cases that are there are left
alone. For the space sri24 and for skull stripping the library downloads an atlas and HD-BET's weights when it
first runs. Segmentations beside the images are not taken along."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd preprocess",
        description="Registers and skull-strips raw scans by BrainLesion's brainles-preprocessing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    parser.add_argument("-o", metavar="OUT", type=Path, required=True, help="folder for the case folders")
    parser.add_argument(
        "--space",
        default="sri24",
        metavar="WHERE",
        help="sri24 (BraTS, default), native (the centre's own grid), or the NIfTI file of an atlas",
    )
    parser.add_argument("--keep-skull", action="store_true", help="register only")
    parser.add_argument(
        "--centre",
        "--center",
        metavar="NAME",
        help="register to this sequence (default: t1c, t1n, t2f or t2w)",
    )
    parser.add_argument("--transforms", metavar="DIR", type=Path, help="keep the matrices there, for native")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cuda", help="of HD-BET (default cuda)")
    parser.add_argument("--verbose", action="store_true", help="show what the library says")
    parser.add_argument("--disable_progress_bar", action="store_true", help="no bar and no line per case")
    add_channel_arguments(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Preprocess and report; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.brain_preprocessing import (
        CITATION,
        NATIVE,
        SRI24,
        Preprocessing,
        check_library,
    )
    from nnunetv2_mstkd.datasets.discovery import discover

    source, rules, channels = chosen_source(arguments), chosen_rules(arguments), chosen_channels(arguments)
    centre = None if arguments.centre is None else resolve(arguments.centre, channels.modalities)
    if arguments.space not in (SRI24, NATIVE) and not Path(arguments.space).is_file():
        raise MSTKDError(f"--space {arguments.space} is neither {SRI24}, {NATIVE} nor a file")
    check_folders(source, arguments.o)
    check_library()
    found = discover(source, channels.modalities, file_ending=channels.file_ending, rules=rules)
    _check_images(found.cases, arguments.o)
    what = Preprocessing(
        writable_folder(arguments.o),
        arguments.space,
        not arguments.keep_skull,
        centre,
        arguments.device == "cuda",
        arguments.transforms,
    )
    left = [case for case in found.cases if not (what.output / case.name).exists()]
    problems = found.problems | _preprocess(arguments, left, what)
    done = len(left) - len(problems) + len(found.problems)
    finished = f", {len(found.cases) - len(left)} were there before" if len(left) < len(found.cases) else ""
    failed = f", {len(problems)} failed" if problems else ""
    print(f"{arguments.o}: {done} case(s) preprocessed{finished}{failed}")
    print(f"please cite brainles-preprocessing: {CITATION}", file=sys.stderr)
    return report_problems(problems)


def _check_images(cases: Sequence[Case], output: Path) -> None:
    """A table may name files anywhere: those in their own case's target would count as its result."""
    for case in cases:
        target = output / case.name
        for path in case.images.values():
            if path.resolve().is_relative_to(target.resolve()):
                raise MSTKDError(
                    f"{path} lies in {target}, where its case is to be written; choose another -o"
                )


def _preprocess(arguments: argparse.Namespace, cases: Sequence[Case], what: Preprocessing) -> dict[str, str]:
    """Go through the cases, one after the other: the library uses all cores; returns what failed and why."""
    from nnunetv2_mstkd.datasets.brain_preprocessing import preprocess_case, silence_log
    from nnunetv2_mstkd.environment import quiet

    problems = {}
    bar = CaseProgress(len(cases), "preprocessing", disable=arguments.disable_progress_bar)
    with bar, quiet(not arguments.verbose):
        if not arguments.verbose:
            silence_log()
        for case in cases:
            try:
                preprocess_case(case, what)
            except MSTKDError as error:
                problems[case.name] = str(error)
            bar.update(case.name, None if case.name in problems else "+".join(case.images))
    return problems
