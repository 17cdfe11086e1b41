"""``nnUNetv2_mstkd native``: bring segmentations of preprocessed scans back to the raw scans."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_mstkd.commands.arguments import add_predictions_arguments, dataset_json_of_predictions
from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import check_folders, writable_folder
from nnunetv2_mstkd.modalities import resolve
from nnunetv2_mstkd.models.folder import dataset_modalities

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.cases import Case

_EPILOG = """The way there and back:
  nnUNetv2_mstkd preprocess -i RAW -o IMAGES --transforms MATRICES
  nnUNetv2_mstkd predict -i IMAGES -o SEG -m MODEL_FOLDER
  nnUNetv2_mstkd native -p SEG -i RAW --transforms MATRICES -o OUT
OUT gets a segmentation per case on the grid of its raw t1c (or t1n, t2f, t2w, the first that the case has; or
--sequence), with modalities.json and dataset.json, so that 'statistics -p OUT' measures volumes there.
Probabilities stay where they are."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd native",
        description="Brings segmentations of preprocessed scans back to the raw scans.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_predictions_arguments(parser)
    add_source_arguments(parser)
    add("--transforms", metavar="DIR", type=Path, required=True, help="matrices that preprocess kept")
    add("-o", metavar="OUT", type=Path, required=True, help="folder for the segmentations")
    add("--sequence", metavar="NAME", help="bring them to this raw sequence's grid")
    add("--verbose", action="store_true", help="show what the library says")
    add("--disable_progress_bar", action="store_true", help="no bar and no line per case")
    return parser


def run(argv: Sequence[str]) -> int:
    """Bring them back and report; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.brain_preprocessing import CITATION, check_library
    from nnunetv2_mstkd.datasets.discovery import discover
    from nnunetv2_mstkd.outputs.folder import segmentations

    source, rules = chosen_source(arguments), chosen_rules(arguments)
    dataset_json = dataset_json_of_predictions(arguments)
    modalities, ending = dataset_modalities(dataset_json), str(dataset_json["file_ending"])
    if arguments.sequence is not None:
        arguments.sequence = resolve(arguments.sequence, modalities)
    if not arguments.transforms.is_dir():
        raise MSTKDError(f"no folder {arguments.transforms}; give that of preprocess --transforms")
    if arguments.o.resolve() == arguments.p.resolve():
        raise MSTKDError(f"-o {arguments.o} is the folder of the segmentations itself; choose another")
    check_folders(source, arguments.o)
    names = list(segmentations(arguments.p, ending))
    if not names:
        raise MSTKDError(f"no segmentations (*{ending}) in {arguments.p}")
    check_library()
    found = discover(source, modalities, file_ending=ending, rules=rules)
    writable_folder(arguments.o)
    cases = {case.name: case for case in found.cases}
    problems = _bring_back(arguments, names, cases, found.problems, ending)
    for name in ("dataset.json", "plans.json"):
        if (arguments.p / name).is_file():
            shutil.copy(arguments.p / name, arguments.o / name)
    failed = f", {len(problems)} failed" if problems else ""
    print(f"{arguments.o}: {len(names) - len(problems)} segmentation(s) brought back{failed}")
    print(f"please cite brainles-preprocessing: {CITATION}", file=sys.stderr)
    return report_problems(problems)


def _bring_back(
    arguments: argparse.Namespace,
    names: Sequence[str],
    cases: Mapping[str, Case],
    unusable: Mapping[str, str],
    ending: str,
) -> dict[str, str]:
    """Go through the segmentations; returns what failed and why."""
    from nnunetv2_mstkd.datasets.brain_preprocessing import silence_log
    from nnunetv2_mstkd.datasets.native_space import to_native_space
    from nnunetv2_mstkd.environment import quiet
    from nnunetv2_mstkd.inference.records import read_records, record

    records: Mapping[str, Mapping[str, Any]] = read_records(arguments.p)
    problems = {}
    bar = CaseProgress(len(names), "bringing back", disable=arguments.disable_progress_bar)
    with bar, quiet(not arguments.verbose):
        if not arguments.verbose:
            silence_log()
        for name in names:
            grid = None
            try:
                if name not in cases:
                    raise MSTKDError(unusable.get(name, "there is no such case among the raw scans"))
                file = f"{name}{ending}"
                matrices = arguments.transforms / name
                grid = to_native_space(
                    arguments.p / file,
                    cases[name],
                    matrices,
                    arguments.o / file,
                    sequence=arguments.sequence,
                )
                if name in records:
                    record(arguments.o, name, records[name])
            except MSTKDError as error:
                problems[name] = str(error)
            bar.update(name, None if name in problems else grid)
    return problems
