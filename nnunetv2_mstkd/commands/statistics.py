"""``nnUNetv2_mstkd statistics``: measure segmentations that are there, and draw them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.commands.arguments import (
    add_output_arguments,
    add_predictions_arguments,
    dataset_json_of_predictions,
)
from nnunetv2_mstkd.commands.input_source import add_rule_arguments, chosen_rules
from nnunetv2_mstkd.commands.progress import report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import writable_folder
from nnunetv2_mstkd.models.folder import dataset_modalities

_EPILOG = """PREDICTIONS gets statistics.csv and statistics.json (a row per case and region), report.txt, and,
asked for or there already, preview/CASE.png with index.html, and masks/CASE/REGION. Label maps are left as
they are. Type it again after you have corrected a segmentation by hand."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd statistics",
        description="Measures the segmentations of a folder: volumes, lesions, centroids; with pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_predictions_arguments(parser)
    add("-i", metavar="SRC", type=Path, help="folder (or table) of the images, for --preview")
    add_rule_arguments(parser)
    add(
        "--source_labels",
        action="store_true",
        help="cases that modalities.json does not list have the label values of the data set's source",
    )
    add_output_arguments(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Measure, draw, write; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    folder = arguments.p
    if arguments.preview and arguments.i is None:
        raise MSTKDError("--preview needs the images that the segmentations are of: give -i SRC")
    dataset_json = dataset_json_of_predictions(arguments)
    from nnunetv2_mstkd.outputs.case import Wanted
    from nnunetv2_mstkd.outputs.folder import FolderOutputs, segmentations
    from nnunetv2_mstkd.outputs.statistics_file import drop_removed

    names = list(segmentations(folder, str(dataset_json["file_ending"])))
    if not names:
        raise MSTKDError(f"no segmentations (*{dataset_json['file_ending']}) in {folder}")
    images = {} if arguments.i is None else _images(arguments, dataset_json)
    if arguments.preview and not set(images).intersection(names):
        raise MSTKDError(f"{arguments.i} has no images of the cases in {folder}, such as {names[0]}")
    outputs = FolderOutputs(
        folder,
        dataset_json,
        Wanted(masks=arguments.masks, preview=arguments.preview),
        source_labels=arguments.source_labels,
    )
    outputs.check()
    writable_folder(folder)
    count = outputs.complete({name: images.get(name, {}) for name in names}, again=True)
    removed = drop_removed(folder)
    if removed:
        print(f"left out, for their segmentations are not there any more: {', '.join(removed)}")
    outputs.write()
    print(f"{folder}: {count} case(s) measured")
    return report_problems(outputs.problems)


def _images(arguments: argparse.Namespace, dataset_json: Mapping[str, Any]) -> dict[str, Mapping[str, Path]]:
    from nnunetv2_mstkd.datasets.discovery import discover

    ending = str(dataset_json["file_ending"])
    rules, modalities = chosen_rules(arguments), dataset_modalities(dataset_json)
    found = discover(arguments.i, modalities, file_ending=ending, rules=rules)
    return {case.name: case.images for case in found.cases}
