"""Converted networks of a test go where its other files go."""

import pytest

from nnunetv2_mstkd.engines.converted_models import FOLDER_VARIABLE


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of converted networks."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder
