"""``nnUNetv2_mstkd evaluate``: predict and score every case under every subset of its modalities."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
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
    chosen_model,
)
from nnunetv2_mstkd.commands.progress import CaseProgress, report_problems
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import Subset, all_subsets, parse_subset

if TYPE_CHECKING:
    from nnunetv2_mstkd.commands.evaluate_runs import Evaluated
    from nnunetv2_mstkd.evaluation.scoring.evaluator import TaskReport

_EPILOG = """OUT gets metrics.csv (a row per case, subset and region), table.md and table.csv (a column per
subset), predictions/SUBSET/ with the segmentations and nnU-Net's summary.json, evaluation.json (what was
evaluated) and cases/ (raw scores). Finished work is never done again: type the same command to go on, or with
another --policy to have the tables anew. Several runs may share the work (-num_parts, -part_id)."""
_POLICIES = ("brats", "nnunet", "official")
_DEFAULT = "default"


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
        default="val",
        metavar="WHICH",
        help="val (of the fold, default), all (training cases), or a folder with cases",
    )
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
    add("--policy", choices=_POLICIES, default="brats", help="for empty masks (default brats)")
    add(
        "--lesionwise",
        nargs="?",
        const=_DEFAULT,
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
    arguments.lesionwise = _lesion_rules(arguments.lesionwise)
    if arguments.predictions is not None:
        from nnunetv2_mstkd.commands.evaluate_runs import score_predictions

        return _finish(arguments, score_predictions(arguments, argv, _progress))
    from nnunetv2_mstkd.commands.evaluate_runs import evaluate_model

    model = chosen_model(arguments)
    folds = chosen_folds(arguments)
    subsets = chosen_subsets(arguments.subsets, model.modalities)
    return _finish(arguments, evaluate_model(arguments, model, folds, subsets, argv, _progress))


def chosen_subsets(texts: Sequence[str], modalities: Sequence[str]) -> tuple[Subset, ...]:
    """The subsets that ``--subsets`` names, in table order.

    ``+`` joins the names of a subset; a comma or a blank separates subsets.

    Raises:
        MSTKDError: a name is not among ``modalities``.
    """
    names = [part for text in texts for part in text.split(",") if part.strip()]
    every = all_subsets(modalities)
    if names == ["all"]:
        return every
    wanted = {parse_subset(name, modalities) for name in names}
    if not wanted:
        raise MSTKDError("--subsets names nothing; give all, or subsets like t1c+t2f")
    return tuple(subset for subset in every if subset in wanted)


def _lesion_rules(name: str | None) -> str | None:
    if name is None:
        return None
    from nnunetv2_mstkd.evaluation.metrics.lesionwise import DEFAULT_RULES, RULES

    chosen = DEFAULT_RULES if name == _DEFAULT else name
    if chosen not in RULES:
        raise MSTKDError(f"--lesionwise {name} is not known; there are {', '.join(RULES)}")
    return chosen


def _progress(
    total: int, reports: Iterable[TaskReport], *, disable: bool, verbose: bool = True
) -> dict[str, str]:
    """Take reports as they come; returns what failed and why."""
    from nnunetv2_mstkd.environment import quiet

    failed: dict[tuple[str, str], list[str]] = {}
    bar = CaseProgress(total, "evaluating", disable=disable)
    with bar, quiet(not verbose):
        for report in reports:
            task = report.task
            text = "not possible" if report.impossible else "scored"
            bar.update(f"{task.case.name} {task.name}", None if report.problem else text)
            if report.problem is not None:
                failed.setdefault((task.case.name, report.problem), []).append(task.name)
    return {_named(case, names): problem for (case, problem), names in failed.items()}


def _named(case: str, subsets: Sequence[str]) -> str:
    return f"{case} {subsets[0]}" if len(subsets) == 1 else f"{case} ({len(subsets)} subsets)"


def _finish(arguments: argparse.Namespace, evaluated: Evaluated) -> int:
    """Write the tables of all that is scored, by this run or others, and say how much is missing."""
    from nnunetv2_mstkd.evaluation.record.tables_of_scores import collect

    found = collect(evaluated.record, arguments.o, evaluated.session)
    print(
        f"{arguments.o}: {found.scored} of {found.scored + found.missing} scores (cases by subsets)", end=""
    )
    print(
        f"; {found.impossible} are not possible: their cases lack modalities" if found.impossible else "",
        end="",
    )
    print(f"; {found.missing} are missing, the tables are without them" if found.missing else "")
    print((arguments.o / "table.md").read_text(encoding="utf-8").rstrip())
    return report_problems(evaluated.problems)
