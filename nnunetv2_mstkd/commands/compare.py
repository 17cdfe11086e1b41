"""``nnUNetv2_mstkd compare``: compare evaluated models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.evaluation.comparison.compare import DEFAULT_RESAMPLES
from nnunetv2_mstkd.evaluation.comparison.published import DATASETS
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.comparison.runs import Comparison


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
    add("-o", required=True, type=Path, metavar="OUT", help="folder for the comparison")
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
        choices=tuple(DATASETS),
        help="print the published numbers in a block of their own",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default 0)")
    resamples = f"of the bootstrap (default {DEFAULT_RESAMPLES})"
    add("--resamples", type=int, default=DEFAULT_RESAMPLES, metavar="N", help=resamples)
    return parser


def _summary(comparison: Comparison, folder: Path) -> str:
    """What the terminal shows: the differences over the incomplete subsets, and where everything is."""
    cases, patients = (comparison.scores[column].nunique() for column in ("case", "patient"))
    lines = [
        f"{len(comparison.runs)} runs, {cases} cases of {patients} patients,"
        f" {len(comparison.subsets)} subsets, policy {comparison.policy}"
        + (f", without {', '.join(comparison.without)}" if comparison.without else ""),
        *_difference_lines(comparison),
        f"report: {folder / 'report.html'}",
        f"tables: {folder / 'comparison.md'}",
    ]
    return "\n".join(lines)


def _difference_lines(comparison: Comparison) -> list[str]:
    """One line per run and region: the Dice difference over the incomplete subsets."""
    from nnunetv2_mstkd.evaluation.report.cells import interval_text, number, p_value

    table = comparison.differences
    summaries = [name for name in (INCOMPLETE, AVERAGE) if name in set(table["subset"])]
    if not summaries:
        return []
    lines = [f"Dice against {comparison.reference}, {summaries[0]} subsets (95 % interval, p after Holm):"]
    for row in table[(table["subset"] == summaries[0]) & (table["metric"] == "dice")].to_dict("records"):
        difference = number(row["difference"], "dice", signed=True)
        interval = interval_text(row["low"], row["high"], "dice", signed=True) or "no interval"
        lines.append(
            f"  {row['run']} {row['region']}: {difference} pp {interval}, p {p_value(row['p_holm'])}"
        )
    return lines


def run(argv: Sequence[str]) -> int:
    """Compare, write everything into OUT and print a summary."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.evaluation.report.run import ComparisonRequest, compare

    comparison = compare(
        ComparisonRequest(
            runs=arguments.runs,
            output=arguments.o,
            names=arguments.names,
            without=arguments.without,
            reference=arguments.reference,
            ablation=arguments.ablation,
            published=arguments.published,
            seed=arguments.seed,
            resamples=arguments.resamples,
        )
    )
    print(_summary(comparison, arguments.o))
    return 0
