"""``nnUNetv2_mstkd evaluate``: predict and score every case under every subset of its modalities."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.arguments import (
    add_device_arguments,
    add_model_arguments,
    add_sharing_arguments,
    add_thread_arguments,
    add_trust_argument,
    add_window_arguments,
    check_numbers,
    chosen_folds,
    chosen_model_folder,
)
from nnunetv2_mstkd.commands.input_source import add_rule_arguments, add_table_argument
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.scoring.evaluator import TaskReport
    from nnunetv2_mstkd.evaluation.scoring.request import EvaluationRequest

_VALIDATION = "val"
_EPILOG = """OUT gets metrics.csv (a row per case, subset and region), table.md and table.csv (a column per
subset), predictions/SUBSET/ with the segmentations and nnU-Net's summary.json, evaluation.json (what was
evaluated) and cases/ (raw scores). Finished work is never done again: type the same command to go on, or with
another --policy to have the tables anew. Several runs may share the work (-num_parts, -part_id)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd evaluate",
        description="Predicts every case with every subset of its modalities, and scores it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", metavar="OUT", type=Path, required=True, help="folder for the results")
    add_model_arguments(parser)
    _add_what(parser.add_argument_group("what is evaluated"))
    group = parser.add_argument_group("as in nnUNetv2_predict")
    add_window_arguments(
        group, folds="--cases val needs exactly one; else the default is 0 1 2 3 4, with -m those there are"
    )
    add_thread_arguments(group)
    add_sharing_arguments(group)
    add_device_arguments(group)
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--cases",
        default=_VALIDATION,
        metavar="WHICH",
        help="val (of the fold, default), all (training cases), or a folder with cases",
    )
    add_table_argument(group)
    add_rule_arguments(group)
    labels = "references of a folder's cases (default: beside them); needed with --predictions"
    add("--labels", type=Path, metavar="FOLDER", help=labels)
    add("--source_labels", action="store_true", help="--labels has the label values of the data set's source")
    add(
        "--subsets",
        nargs="+",
        default=["all"],
        metavar="NAMES",
        help='all (default), or some: t1c+t2f t2f (or "t1c+t2f,t2f")',
    )
    add("--policy", choices=tuple(POLICIES), default="brats", help="for empty masks (default brats)")
    add(
        "--lesionwise",
        nargs="?",
        const="default",
        metavar="RULES",
        help="score single lesions too, by the rules of a BraTS 2023 challenge (default adult glioma)",
    )
    add(
        "--predictions",
        type=Path,
        metavar="FOLDER",
        help="score these segmentations (a folder per subset, or one with modalities.json); no model is used",
    )
    add("--executor", metavar="dask://HOST:PORT", help="score on the workers of a Dask cluster")
    add_trust_argument(group)


def run(argv: Sequence[str]) -> int:
    """Evaluate and print the table; 2 if something could not be scored."""
    arguments = _parser().parse_args(argv)
    check_numbers(arguments)
    from nnunetv2_mstkd.evaluation.scoring.run import evaluate

    done = evaluate(_request(arguments), partial(_bar, disable=arguments.disable_progress_bar))
    print(f"{arguments.o}: {done.scored} of {done.scored + done.missing} scores (cases by subsets)", end="")
    if done.impossible:
        print(f"; {done.impossible} are not possible: their cases lack modalities", end="")
    print(f"; {done.missing} are missing, the tables are without them" if done.missing else "")
    print((arguments.o / "table.md").read_text(encoding="utf-8").rstrip())
    return report_problems(done.problems)


def _request(arguments: argparse.Namespace) -> EvaluationRequest:
    from nnunetv2_mstkd.evaluation.scoring.request import EvaluationRequest
    from nnunetv2_mstkd.inference.folder import Part

    # Beside predictions the request refuses a model, whichever way it is named.
    model = chosen_model_folder(arguments) if arguments.predictions is None else arguments.m or arguments.d
    return EvaluationRequest(
        output=arguments.o,
        model=model,
        folds=chosen_folds(arguments),
        checkpoint=arguments.chk,
        cases=_cases(arguments),
        one_case=arguments.one_case,
        patterns=arguments.pattern,
        labels=arguments.labels,
        source_labels=arguments.source_labels,
        subsets=arguments.subsets,
        policy=arguments.policy,
        lesionwise=arguments.lesionwise,
        predictions=arguments.predictions,
        step_size=arguments.step_size,
        mirroring=not arguments.disable_tta,
        device=arguments.device,
        engine=arguments.engine,
        everything_on_device=not arguments.not_on_device,
        trust_checkpoint=arguments.trust_checkpoint,
        readers=arguments.npp,
        writers=arguments.nps,
        part=Part(arguments.part_id, arguments.num_parts),
        executor=arguments.executor,
        verbose=arguments.verbose,
    )


def _cases(arguments: argparse.Namespace) -> str | Path:
    """Return what --cases names, or the table that stands in its place."""
    if arguments.table is None:
        return str(arguments.cases)
    if arguments.cases != _VALIDATION:
        raise MSTKDError("--cases and --table both say which cases are evaluated; give one")
    return Path(arguments.table)


@contextmanager
def _bar(total: int, *, disable: bool) -> Iterator[Callable[[TaskReport], None]]:
    with CaseProgress(total, "evaluating", disable=disable) as bar:

        def show(report: TaskReport) -> None:
            text = "not possible" if report.impossible else "scored"
            bar.update(f"{report.task.case.name} {report.task.name}", None if report.problem else text)

        yield show
