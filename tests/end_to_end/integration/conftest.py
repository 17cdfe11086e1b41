"""Real data that is not in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import SHARED


@pytest.fixture(scope="session")
def real_case() -> Path:
    """The BraTS 2023 case of ../shared/data."""
    case = SHARED / "data" / "BraTS-GLI-00000-000"
    if not case.is_dir():
        pytest.skip("the real BraTS case (../shared/data) is not on this machine")
    return case
