"""``compare``: set evaluated models side by side and write tables, figures and a report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.compare import DEFAULT_RESAMPLES, compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import find_run, load_runs, run_folders, without_cases
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.report.output import check_output, write_comparison

_FEWEST_RESAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """One call of ``compare``.

    Attributes:
        runs: folders that ``evaluate`` has written; or a folder of such folders, or several joined by commas:
            folds are concatenated, seeds averaged.
        output: folder for the comparison; an older comparison in it is replaced.
        names: one per run; None takes those of the trainers or folders.
        without: cases to leave out of every run.
        reference: run that the others are set against, by name or folder; None takes the first.
        ablation: make the ablation table; the reference is the full method.
        published: ``brats2024`` or ``fets2024``: print the published numbers in a block of their own.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        MSTKDError: a number is out of range.
    """

    runs: Sequence[str | os.PathLike[str]]
    output: str | os.PathLike[str]
    names: Sequence[str] | None = None
    without: Sequence[str] = ()
    reference: str | os.PathLike[str] | None = None
    ablation: bool = False
    published: str | None = None
    seed: int = 0
    resamples: int = DEFAULT_RESAMPLES

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise MSTKDError(f"--seed is {self.seed}; give a whole number of at least 0")
        if self.resamples < _FEWEST_RESAMPLES:
            raise MSTKDError(
                f"--resamples is {self.resamples}; give {_FEWEST_RESAMPLES} or more, an interval needs them"
            )

    def command(self) -> str:
        """Return the command that does the same."""
        words: list[Any] = [*self.runs, "-o", self.output]
        words += ["--names", *self.names] if self.names is not None else []
        words += ["--without", *self.without] if self.without else []
        words += ["--reference", self.reference] if self.reference is not None else []
        words += ["--ablation"] if self.ablation else []
        words += ["--published", self.published] if self.published is not None else []
        words += ["--seed", self.seed] if self.seed else []
        words += ["--resamples", self.resamples] if self.resamples != DEFAULT_RESAMPLES else []
        return shlex.join(("nnUNetv2_mstkd", "compare", *map(str, words)))


def compare(request: ComparisonRequest) -> Comparison:
    """Compare evaluations over the same cases and write everything into the output folder.

    Raises:
        MSTKDError: the runs cannot be compared, or the output cannot be written; it is as it was.
    """
    arguments, output = [os.fspath(run) for run in request.runs], Path(request.output)
    check_output(output, [path for argument in arguments for path in run_folders(argument)])
    runs = without_cases(load_runs(arguments, request.names), request.without)
    reference = request.reference
    comparison = compare_runs(
        runs,
        reference=None if reference is None else find_run(os.fspath(reference), arguments, runs),
        ablation=request.ablation,
        published=request.published,
        seed=request.seed,
        resamples=request.resamples,
    )
    write_comparison(comparison, output, command=request.command())
    return comparison
