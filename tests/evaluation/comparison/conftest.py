"""Comparisons of made-up evaluations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs, without_cases
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison


@pytest.fixture
def compare() -> Callable[..., Comparison]:
    """``compare(folder, "a,b", names=[...], without=[...], reference=...)`` with few resamples."""

    def run(
        *arguments: Path | str, names: list[str] | None = None, without: list[str] | None = None, **options
    ) -> Comparison:
        options.setdefault("resamples", 200)
        runs = load_runs([str(argument) for argument in arguments], names)
        return compare_runs(without_cases(runs, without or ()), **options)

    return run
