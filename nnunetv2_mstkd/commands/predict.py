"""``nnUNetv2_mstkd predict``: segment cases, whatever modalities they have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.arguments import (
    add_device_arguments,
    add_modalities_argument,
    add_model_arguments,
    add_output_arguments,
    add_sharing_arguments,
    add_thread_arguments,
    add_trust_argument,
    add_window_arguments,
    check_numbers,
    chosen_folds,
    chosen_modalities,
    chosen_model,
    loading_options,
)
from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.files import check_folders, writable_folder
from nnunetv2_mstkd.models.folder import Fold, ModelFolder

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.discovery import Case
    from nnunetv2_mstkd.inference.writing import Output
    from nnunetv2_mstkd.modalities import Subset
    from nnunetv2_mstkd.outputs.folder import FolderOutputs

_EPILOG = """SRC holds case folders (CASE/CASE-t1c.nii.gz ...), is one such folder, or is nnU-Net's flat
folder (CASE_0000.nii.gz ...). Any file may be absent. OUT gets CASE.nii.gz, modalities.json, which says
what each segmentation was based on and, where the model has a trust.json, what to expect of it,
statistics.csv and .json (volumes, lesions, centroids) and report.txt (sentences for a methods section)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd predict",
        description="Segments cases, whatever modalities they have, with any nnU-Net model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    parser.add_argument("-o", metavar="OUT", type=Path, required=True, help="folder for the segmentations")
    add_model_arguments(parser)
    add_modalities_argument(parser)
    parser.add_argument(
        "--source_labels", action="store_true", help="write label values as the data set's source has them"
    )
    add_output_arguments(parser)
    add_trust_argument(parser)
    _add_nnunet_arguments(parser)
    return parser


def _add_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("as in nnUNetv2_predict")
    add_window_arguments(group)
    group.add_argument(
        "--save_probabilities", action="store_true", help="keep probabilities (.npz, .pkl), for ensembling"
    )
    group.add_argument(
        "--continue_prediction", action="store_true", help="leave finished cases alone, do the others"
    )
    add_thread_arguments(group)
    group.add_argument(
        "-prev_stage_predictions", type=Path, help="segmentations of a cascade's previous stage"
    )
    add_sharing_arguments(group)
    add_device_arguments(group)


def run(argv: Sequence[str]) -> int:
    """Segment and report; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    check_numbers(arguments)
    from nnunetv2_mstkd.inference.folder import Part, check_source_labels, find_work
    from nnunetv2_mstkd.inference.writing import Output

    model = chosen_model(arguments)
    wanted = chosen_modalities(arguments.modalities, model.modalities)
    if arguments.source_labels:
        check_source_labels(model)
    source = chosen_source(arguments)
    check_folders(source, arguments.o)
    output = Output(arguments.o, model.file_ending, arguments.source_labels, arguments.save_probabilities)
    work = find_work(
        source,
        model,
        output,
        part=Part(arguments.part_id, arguments.num_parts),
        skip_finished=arguments.continue_prediction,
        rules=chosen_rules(arguments),
    )
    problems = dict(work.problems)
    folds = model.folds(chosen_folds(arguments), arguments.chk) if work.cases else ()
    outputs = _outputs(arguments, model, folds)
    if work.cases:
        writable_folder(arguments.o)
        problems |= _segment(arguments, model, folds, work.cases, wanted, output, outputs)
    outputs.complete({case.name: case.images for case in work.finished_cases})
    outputs.write()
    done = len(work.cases) + len(work.problems) - len(problems)
    finished = f", {work.finished} were finished before" if work.finished else ""
    failed = f", {len(problems)} failed" if problems else ""
    print(f"{arguments.o}: {done} case(s) segmented{finished}{failed}")
    return report_problems(outputs.problems | problems)


def _outputs(arguments: argparse.Namespace, model: ModelFolder, folds: Sequence[Fold]) -> FolderOutputs:
    """What is written beside the segmentations."""
    from nnunetv2_mstkd.outputs.case import Wanted
    from nnunetv2_mstkd.outputs.folder import FolderOutputs
    from nnunetv2_mstkd.outputs.run import describe_run

    window = {"step_size": arguments.step_size, "mirroring": not arguments.disable_tta}
    outputs = FolderOutputs(
        arguments.o,
        model.dataset_json,
        Wanted(masks=arguments.masks, preview=arguments.preview),
        source_labels=arguments.source_labels,
        run=partial(describe_run, model, folds, arguments.chk, **window, engine=arguments.engine),
    )
    outputs.check()
    return outputs


def _segment(
    arguments: argparse.Namespace,
    model: ModelFolder,
    folds: Sequence[Fold],
    cases: Sequence[Case],
    wanted: Subset,
    output: Output,
    outputs: FolderOutputs,
) -> dict[str, str]:
    """Load the model and go through the cases; returns what failed and why."""
    from nnunetv2_mstkd.commands.quality import QualityReport
    from nnunetv2_mstkd.environment import quiet
    from nnunetv2_mstkd.inference.folder import segment_cases
    from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
    from nnunetv2_mstkd.trust import Expectations

    predictor = MissingModalityPredictor.load(model, folds=folds, **loading_options(arguments))
    inference = {"step_size": arguments.step_size, "mirroring": not arguments.disable_tta}
    quality = QualityReport(Expectations.of(model, folds, arguments.chk, inference))
    reports = segment_cases(
        predictor,
        cases,
        output,
        wanted=wanted,
        previous_stage=arguments.prev_stage_predictions,
        readers=arguments.npp,
        writers=arguments.nps,
        beside=outputs.add,
        known=quality.known,
    )
    problems = {}
    bar = CaseProgress(len(cases), "segmenting", disable=arguments.disable_progress_bar)
    with bar, quiet(not arguments.verbose):
        for report in reports:
            used = report.segmentation.use.used if report.segmentation else None
            bar.update(report.name, "+".join(used) + quality.of(report) if used else None)
            if report.problem is not None:
                problems[report.name] = report.problem
    quality.print_summary()
    return problems
