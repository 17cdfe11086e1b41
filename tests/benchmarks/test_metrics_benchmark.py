"""The benchmark of the metrics runs and reports what it should. How fast it is, is not asked here."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from places import ROOT


@pytest.fixture
def main(monkeypatch):
    """The benchmark in this process: importing torch anew takes seconds."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.metrics").main


def check(content, shape):
    assert content["benchmark"] == "metrics"
    assert {"processor", "cores", "memory_gib", "device", "threads"} <= set(content["machine"])
    assert {"nnunetv2-mstkd", "scipy", "numpy", "medpy"} <= set(content["versions"])
    assert content["results"]["case"]["shape"] == list(shape)
    rows = {row["measure"]: row for row in content["results"]["rows"]}
    assert {
        f"{p}, {m} {r}" for p in ("near", "with far voxels") for m in ("HD95", "Dice") for r in ("WT", "ET")
    } < {*rows}
    for row in rows.values():
        assert all(len(times) == 2 and min(times) > 0 for times in row["seconds"].values())
        if "ratio" in row:
            assert row["ratio"] == pytest.approx(row["median"]["ours"] / row["median"]["medpy"])
            assert row["largest_difference"] < 1e-6


@pytest.mark.slow
def test_the_synthetic_case(tmp_path):
    output = tmp_path / "deeper" / "metrics.json"
    options = ["--repeats", "2", "--shape", "20", "32", "28", "--json", str(output)]
    command = [sys.executable, "-m", "benchmarks.metrics", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "with far voxels, HD95 ET" in done.stdout
    check(json.loads(output.read_text()), (20, 32, 28))


def test_a_real_case_by_option(main, tmp_path):
    labels = np.zeros((16, 20, 24), np.float32)  # BraTS 2023 stores them as float
    labels[4:10, 5:12, 6:14], labels[5:8, 6:10, 8:12], labels[6, 7:9, 9:11] = 2, 3, 1
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "case-seg.nii.gz"))
    output = tmp_path / "metrics.json"
    assert main(["--repeats", "2", "--case", str(tmp_path), "--json", str(output)]) == 0
    content = json.loads(output.read_text())
    check(content, labels.shape)
    assert str(tmp_path) not in json.dumps(content["results"])


def test_a_folder_without_a_case_is_one_line(main, tmp_path, capsys):
    assert main(["--case", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "seg.nii.gz" in printed.err
