"""A model of its own for each test, with an evaluation of it."""

import json
import shutil
from types import SimpleNamespace

import pytest
from evaluated_model import model_flags

from nnunetv2_mstkd.cli import main


@pytest.fixture(scope="session")
def whole(models, folder, tmp_path_factory):
    """One evaluation of fold 0 under a few subsets, which tests only read or copy."""
    output = tmp_path_factory.mktemp("few") / "out"
    flags = map(str, model_flags(models.regions, folder))
    assert main(["evaluate", "-o", str(output), *flags, "--subsets", "t1n", "t1c", "t1c+t2f", "t1n+t1c"]) == 0
    return output


@pytest.fixture
def own_model(models, tmp_path):
    """A copy of the tiny model with two folds: tests write into it."""
    return shutil.copytree(models.regions, tmp_path / models.regions.name)


@pytest.fixture
def trust(capsys, monkeypatch):
    """Run ``nnUNetv2_mstkd trust`` in this process, without nnUNet_preprocessed."""
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)

    def run(*flags):
        capsys.readouterr()
        code = main(["trust", *map(str, flags)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def splits(tmp_path, monkeypatch):
    """Write ``splits_final.json`` of the tiny model's data set, where nnU-Net would have it."""

    def write(content):
        folder = tmp_path / "preprocessed" / "Dataset990_Tiny"
        folder.mkdir(parents=True)
        (folder / "splits_final.json").write_text(json.dumps(content))
        monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
        return folder

    return write
