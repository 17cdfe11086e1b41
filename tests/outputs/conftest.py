"""A tiny model and cases for it; a folder that predict has filled once."""

import pytest
from browser import browse  # noqa: F401  fixture
from tiny_model import brats, files, models, predict  # noqa: F401  fixtures

from nnunetv2_mstkd.cli import main


@pytest.fixture(scope="session")
def predicted(models, brats, tmp_path_factory):  # noqa: F811
    """What ``predict --preview --masks`` writes of both cases with the model of regions; to be read only."""
    output = tmp_path_factory.mktemp("predicted") / "out"
    flags = ["-i", brats, "-o", output, "-m", models.regions, "-device", "cpu", "--disable_tta"]
    assert main(["predict", *map(str, flags), "-step_size", "1", "--preview", "--masks"]) == 0
    return output
