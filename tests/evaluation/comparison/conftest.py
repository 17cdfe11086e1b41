"""Comparisons of made-up evaluations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison


@pytest.fixture
def compare() -> Callable[..., Comparison]:
    """``compare(folder, "a,b", names=[...], reference=...)`` with few resamples."""

    def run(*arguments: Path | str, names: list[str] | None = None, **options) -> Comparison:
        options.setdefault("resamples", 200)
        return compare_runs(load_runs([str(argument) for argument in arguments], names), **options)

    return run
