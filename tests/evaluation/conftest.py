"""What tests of evaluations share: made-up ones, and a tiny model evaluated once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import browse  # noqa: F401  a fixture
from evaluated_model import case_folder, evaluate, whole  # noqa: F401  fixtures
from made_evaluations import make_evaluation
from tiny_model import models  # noqa: F401  a fixture


@pytest.fixture
def evaluation(tmp_path) -> Callable[..., Path]:
    """Makes an evaluation in this test's folder: ``evaluation("a", gain=0.1)``."""
    return lambda folder, /, **options: make_evaluation(tmp_path / folder, **options)
