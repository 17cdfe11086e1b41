"""What ``make demo`` runs, as it stands there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_demo_ends_with_tables_and_a_report(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "phantom_demo.py", "--out", tmp_path / "demo"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    means = pd.read_csv(tmp_path / "demo" / "comparison" / "means.csv").query("metric == 'dice'")
    dice = means.groupby(["run", "subset"])["mean"].mean()
    assert len(dice) == 3 * 17, "three models, 15 subsets, two averages"
    # What the plugin is for: over the incomplete subsets, models trained with masking find more of the tumour
    # than the same network trained on all sequences (mean over WT, TC and ET).
    for model in ("conditioned dropout", "MSTKD"):
        assert dice[model, "incomplete"] > dice["no masking", "incomplete"]
    preprocessed = tmp_path / "demo" / "nnUNet_preprocessed" / "Dataset900_Phantom"
    masked, unmasked = (
        json.loads((preprocessed / f"{name}.json").read_text())["configurations"]["3d_fullres"]
        for name in ("nnUNetMSTKDPlans", "nnUNetUnmaskedPlans")
    )
    assert masked["architecture"] == unmasked["architecture"]
    sampling = {"sampler", "subset_weights"}
    assert unmasked["mstkd"].keys() - masked["mstkd"].keys() == sampling
    assert masked["mstkd"] == {k: v for k, v in unmasked["mstkd"].items() if k not in sampling}
    report = tmp_path / "demo" / "comparison" / "report.html"
    assert str(report) in done.stdout
    assert report.read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    predicted = json.loads((tmp_path / "demo" / "predictions" / "modalities.json").read_text())
    assert {tuple(entry["used"]) for entry in predicted.values()} == {("t1c", "t2f")}
    assert "| Dice (%) | WT |" in done.stdout
