"""A tiny model evaluated once, and the command in this process, for the tests of ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_model import SHAPE, write_case, write_volume

from nnunetv2_mstkd.cli import main

CASES = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000")
INCOMPLETE = "BraTS-GLI-00003-000"  # without t1n and t2w
SUBSETS = 15


@pytest.fixture(scope="session", name="folder")
def case_folder(tmp_path_factory) -> Path:
    """Two whole cases and one that lacks sequences, with references beside."""
    root = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate((*CASES, INCOMPLETE)):
        write_case(
            root, name, ("t1c", "t2f") if name == INCOMPLETE else ("t1n", "t1c", "t2w", "t2f"), seed=seed
        )
        labels = np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)
        write_volume(root / name / f"{name}-seg.nii.gz", labels)
    return root


@pytest.fixture
def evaluate(capsys):
    """Run ``nnUNetv2_mstkd evaluate`` in this process."""

    def run(output, *flags):
        capsys.readouterr()
        code = main(["evaluate", "-o", str(output), *map(str, flags)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def model_flags(model: Path, folder: Path) -> tuple[object, ...]:
    flags = ("-device", "cpu", "--disable_tta", "--disable_progress_bar", "-npp", 1, "-nps", 1)
    return ("-m", model, "-f", 0, "--cases", folder, "-step_size", 1, *flags)


@pytest.fixture(scope="session")
def whole(models, folder, tmp_path_factory) -> Path:
    """One evaluation, which tests only read or copy."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert main(["evaluate", "-o", str(output), *map(str, model_flags(models.regions, folder))]) == 0
    return output


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def refused(done, *, says: str) -> None:
    """The command ended with exit code 2 and one line, which holds ``says``."""
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert says in line


def refuse_to_load(monkeypatch) -> None:
    from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor

    def load(*arguments, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(MissingModalityPredictor, "load", load)
