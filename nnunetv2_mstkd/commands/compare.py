"""``nnUNetv2_mstkd compare``: compare evaluated models."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.comparison.runs import Comparison

_FEWEST_RESAMPLES = 100


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd compare",
        description="Compares evaluations over the same cases: means, paired differences with intervals and"
        " p-values, ablation, figures and a report.",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the -o folder of nnUNetv2_mstkd evaluate; or a folder of such folders, or several joined by"
        " commas: folds are concatenated, seeds averaged",
    )
    add("-o", required=True, metavar="OUT", help="folder for the comparison")
    add("--names", nargs="+", metavar="NAME", help="one per run (default: from the trainers or folders)")
    add(
        "--without",
        nargs="+",
        default=[],
        metavar="CASE",
        help="cases to leave out of every run, such as one that could not be scored; the report names them",
    )
    add("--reference", metavar="RUN", help="run that the others are set against (default: the first)")
    add("--ablation", action="store_true", help="ablation table; the reference is the full method")
    add(
        "--published",
        choices=("brats2024", "fets2024"),
        help="print the published numbers in a block of their own",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default 0)")
    add("--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (default 10000)")
    return parser


def _summary(comparison: Comparison, folder: Path) -> str:
    """What the terminal shows: the differences over the incomplete subsets, and where everything is."""
    from nnunetv2_mstkd.evaluation.report.markdown import difference_lines

    cases, patients = (comparison.scores[column].nunique() for column in ("case", "patient"))
    lines = [
        f"{len(comparison.runs)} runs, {cases} cases of {patients} patients,"
        f" {len(comparison.subsets)} subsets, policy {comparison.policy}"
        + (f", without {', '.join(comparison.without)}" if comparison.without else ""),
        *difference_lines(comparison),
        f"report: {folder / 'report.html'}",
        f"tables: {folder / 'comparison.md'}",
    ]
    return "\n".join(lines)


def run(argv: Sequence[str]) -> int:
    """Compare, write everything into OUT and print a summary."""
    args = _parser().parse_args(argv)
    if args.seed < 0:
        raise MSTKDError(f"--seed is {args.seed}; give a whole number of at least 0")
    if args.resamples < _FEWEST_RESAMPLES:
        raise MSTKDError(
            f"--resamples is {args.resamples}; give {_FEWEST_RESAMPLES} or more, an interval needs them"
        )
    from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
    from nnunetv2_mstkd.evaluation.comparison.loading import find_run, load_runs, run_folders, without_cases
    from nnunetv2_mstkd.evaluation.report.output import check_output, write_comparison

    folder = Path(args.o)
    check_output(folder, [path for argument in args.runs for path in run_folders(argument)])
    runs = without_cases(load_runs(args.runs, args.names), args.without)
    comparison = compare_runs(
        runs,
        reference=None if args.reference is None else find_run(args.reference, args.runs, runs),
        ablation=args.ablation,
        published=args.published,
        seed=args.seed,
        resamples=args.resamples,
    )
    from nnunetv2_mstkd.evaluation.figures import save_figures
    from nnunetv2_mstkd.evaluation.report import write_report

    command = shlex.join(["nnUNetv2_mstkd", "compare", *argv])
    write_comparison(
        comparison, folder, command=command, save_figures=save_figures, write_report=write_report
    )
    print(_summary(comparison, folder))
    return 0
