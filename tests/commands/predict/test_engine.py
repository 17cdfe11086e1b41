"""``predict --engine openvino``: the same segmentations by another way."""

import json

import numpy as np
import pytest

from nnunetv2_mstkd import Segmenter, engines
from nnunetv2_mstkd.cli import main

WHOLE, PARTIAL = NAMES = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("nnUNet_mstkd_cache", str(folder))
    return folder


def different(files, one, other, names=NAMES) -> float:
    """Share of voxels."""
    arrays = [[files.read_array(folder / f"{name}.nii.gz") for name in names] for folder in (one, other)]
    return float(np.mean([np.mean(a != b) for a, b in zip(*arrays, strict=True)]))


@pytest.mark.slow
def test_of_every_fold_and_subset(predict, models, brats, files, tmp_path, cache):
    flags = ("-f", "0", "1", "--save_probabilities")
    predict(brats, tmp_path / "torch", *flags, model=models.regions)
    done = predict(brats, tmp_path / "openvino", *flags, "--engine", "openvino", model=models.regions)
    assert done.code == 0
    assert not done.err
    assert different(files, tmp_path / "torch", tmp_path / "openvino") < 1e-4
    for name in NAMES:
        one, other = (
            np.load(tmp_path / engine / f"{name}.npz")["probabilities"] for engine in ("torch", "openvino")
        )
        np.testing.assert_allclose(other, one, atol=2e-3)
    assert len(list(cache.iterdir())) == 2, "one of each fold"
    run, *_ = json.loads((tmp_path / "openvino" / "statistics.json").read_text())["runs"]
    assert run["engine"] == "openvino"
    assert "openvino" in run["versions"]


def test_from_python(models, brats, files, tmp_path, cache):
    images = {name: brats / PARTIAL / f"{PARTIAL}-{name}.nii.gz" for name in ("t1c", "t2f")}
    arrays = []
    for engine in engines.ENGINES:
        segmenter = Segmenter(models.labels, device="cpu", mirroring=False, engine=engine)
        arrays.append(segmenter(images).array)
    assert np.mean(arrays[0] != arrays[1]) < 1e-4
    assert arrays[0].any()
    assert list(cache.iterdir())


@pytest.mark.slow
def test_evaluate(models, brats, tmp_path, cache, capsys):
    labels = tmp_path / "labels"
    labels.mkdir()
    main(["predict", "-i", str(brats / WHOLE), "-o", str(labels), "-m", str(models.labels), "-device", "cpu"])
    command = ["evaluate", "-m", str(models.labels), "--cases", str(brats / WHOLE), "--labels", str(labels)]
    command += ["-device", "cpu", "--engine", "openvino", "--subsets", "t1n+t1c+t2w+t2f"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "--engine openvino" in record["command"]
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4


def test_not_installed(predict, models, brats, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    done = predict(brats, tmp_path / "out", "--engine", "openvino", model=models.labels)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.endswith("engine 'openvino' is not installed; pip install 'nnunetv2-mstkd[openvino]'")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.nii.gz"))
