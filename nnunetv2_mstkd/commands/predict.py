"""``nnUNetv2_mstkd predict``: segment cases, whatever modalities they have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.model_arguments import (
    add_modalities_argument,
    add_model_arguments,
    chosen_modalities,
    chosen_model,
)
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import writable_folder
from nnunetv2_mstkd.inference.model_folder import FINAL_CHECKPOINT, Fold, ModelFolder

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.discovery import Case
    from nnunetv2_mstkd.inference.writing import Output
    from nnunetv2_mstkd.modalities import Subset

_EPILOG = """SRC holds case folders (CASE/CASE-t1c.nii.gz ...), is one such folder, or is nnU-Net's flat
folder (CASE_0000.nii.gz ...). Any file may be absent. OUT gets CASE.nii.gz and modalities.json, which
says what each segmentation was based on."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd predict",
        description="Segments cases, whatever modalities they have, with any nnU-Net model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-i", metavar="SRC", type=Path, required=True, help="folder with the cases")
    parser.add_argument("-o", metavar="OUT", type=Path, required=True, help="folder for the segmentations")
    add_model_arguments(parser)
    add_modalities_argument(parser)
    parser.add_argument(
        "--source_labels", action="store_true", help="write label values as the data set's source has them"
    )
    parser.add_argument(
        "--trust_checkpoint",
        action="store_true",
        help="read checkpoints that hold more than nnU-Net stores; code in them will run",
    )
    _add_nnunet_arguments(parser)
    return parser


def _add_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags, short forms and defaults of nnUNetv2_predict."""
    group = parser.add_argument_group("as in nnUNetv2_predict")
    add, switch = group.add_argument, "store_true"
    add(
        "-f",
        nargs="+",
        metavar="FOLD",
        help="folds, or all (default 0 1 2 3 4; with -m those there are)",
    )
    add("-step_size", type=float, default=0.5, help="step of the sliding window, in patches (default 0.5)")
    add("--disable_tta", action=switch, help="no mirroring: faster, slightly less accurate")
    add("--verbose", action=switch, help="show what nnU-Net says")
    add("--save_probabilities", action=switch, help="keep probabilities (.npz, .pkl), for ensembling")
    add("--continue_prediction", action=switch, help="leave finished cases alone, do the others")
    add("-chk", default=FINAL_CHECKPOINT, help=f"checkpoint file (default {FINAL_CHECKPOINT})")
    npp, nps = (os.environ.get(f"nnUNet_{name}", "3") for name in ("npp", "nps"))  # nnU-Net's own
    add("-npp", type=int, default=npp, help="threads that read and preprocess (default 3)")
    add("-nps", type=int, default=nps, help="threads that resample and write (default 3)")
    add("-prev_stage_predictions", type=Path, help="segmentations of a cascade's previous stage")
    add("-num_parts", type=int, default=1, help="number of runs that share the cases (default 1)")
    add("-part_id", type=int, default=0, help="which of them this is, from 0 (default 0)")
    add(
        "-device",
        choices=("cuda", "cpu", "mps"),
        default="cuda",
        help="device of the network (default cuda)",
    )
    add("--disable_progress_bar", action=switch, help="no bar and no line per case")
    add("--not_on_device", action=switch, help="keep large intermediate results off the GPU")


def run(argv: Sequence[str]) -> int:
    """Segment and report; 2 if a case failed."""
    arguments = _parser().parse_args(argv)
    _check_numbers(arguments)
    from nnunetv2_mstkd.inference.folder import Part, check_folders, check_source_labels, find_work
    from nnunetv2_mstkd.inference.writing import Output

    model = chosen_model(arguments)
    wanted = chosen_modalities(arguments.modalities, model.modalities)
    if arguments.source_labels:
        check_source_labels(model)
    check_folders(arguments.i, arguments.o)
    output = Output(arguments.o, model.file_ending, arguments.source_labels, arguments.save_probabilities)
    work = find_work(
        arguments.i,
        model,
        output,
        part=Part(arguments.part_id, arguments.num_parts),
        skip_finished=arguments.continue_prediction,
    )
    problems = dict(work.problems)
    if work.cases:
        folds = model.folds(_folds(arguments), arguments.chk)
        writable_folder(arguments.o)
        problems |= _segment(arguments, model, folds, work.cases, wanted, output)
    done = len(work.cases) + len(work.problems) - len(problems)
    finished = f", {work.finished} were finished before" if work.finished else ""
    failed = f", {len(problems)} failed" if problems else ""
    print(f"{arguments.o}: {done} case(s) segmented{finished}{failed}")
    return report_problems(problems)


def _check_numbers(arguments: argparse.Namespace) -> None:
    """What argparse cannot check.

    Raises:
        MSTKDError: a number is out of range.
    """
    if not 0 < arguments.step_size <= 1:
        raise MSTKDError(f"-step_size {arguments.step_size} is not in (0, 1]; the default is 0.5")
    if min(arguments.npp, arguments.nps) < 0:
        raise MSTKDError("-npp and -nps are numbers of threads, at least 0 (which counts as 1)")


def _folds(arguments: argparse.Namespace) -> Sequence[Fold] | None:
    """Folds as nnU-Net counts them; None leaves the choice to what is there."""
    if arguments.f is None:
        return None if arguments.m is not None else (0, 1, 2, 3, 4)
    for fold in arguments.f:
        if fold != "all" and not fold.isdigit():
            raise MSTKDError(f"-f {fold} is no fold; give numbers, or all")
    return tuple(fold if fold == "all" else int(fold) for fold in arguments.f)


def _segment(
    arguments: argparse.Namespace,
    model: ModelFolder,
    folds: Sequence[Fold],
    cases: Sequence[Case],
    wanted: Subset,
    output: Output,
) -> dict[str, str]:
    """Load the model and go through the cases; returns what failed and why."""
    from nnunetv2_mstkd.inference.folder import segment_cases
    from nnunetv2_mstkd.inference.loading import quiet
    from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor

    predictor = MissingModalityPredictor.load(
        model,
        folds=folds,
        checkpoint_name=arguments.chk,
        device=arguments.device,
        step_size=arguments.step_size,
        mirroring=not arguments.disable_tta,
        everything_on_device=not arguments.not_on_device,
        verbose=arguments.verbose,
        trust_checkpoint=arguments.trust_checkpoint,
    )
    reports = segment_cases(
        predictor,
        cases,
        output,
        wanted=wanted,
        previous_stage=arguments.prev_stage_predictions,
        readers=arguments.npp,
        writers=arguments.nps,
    )
    problems = {}
    bar = CaseProgress(len(cases), "segmenting", disable=arguments.disable_progress_bar)
    with bar, quiet(not arguments.verbose):
        for report in reports:
            bar.update(report.name, report.segmentation.use if report.segmentation else None)
            if report.problem is not None:
                problems[report.name] = report.problem
    return problems
