"""Real data that is not in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_case(shared_data) -> Path:
    """The BraTS 2023 case of ../shared/data."""
    return shared_data / "BraTS-GLI-00000-000"
