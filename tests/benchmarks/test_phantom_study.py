"""The study: its arms cost the same, its runs differ in what they say, and one command does it all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import nnunetv2_mstkd.trainers as trainers
from benchmarks.phantom_study.arms import ARMS, BAR, METHOD, SIZES, compute_of, epochs_of
from benchmarks.phantom_study.study import BASE_PLANS, CONFIGURATION, DATASET, Run, Study

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("budget", [SIZES["small"].epochs, SIZES["gpu"].epochs])
@pytest.mark.parametrize("key", [key for key, arm in ARMS.items() if arm.steps_like is None])
def test_every_arm_costs_the_same(key, budget):
    assert compute_of(ARMS[key], budget) == pytest.approx(budget, rel=0.02)


def test_the_plain_student_takes_as_many_steps_as_the_method():
    assert epochs_of(ARMS["plain_student"], 40) == epochs_of(ARMS[METHOD], 40) == (20, 15)
    assert epochs_of(ARMS[BAR], 40) == (20, 20)
    assert epochs_of(ARMS["joint"], 40) == (0, 20)


def test_arms_are_trainers_of_this_package():
    assert {arm.trainer for arm in ARMS.values()} <= set(trainers.__all__)
    assert all(arm.seeds >= 1 for arm in ARMS.values())


def test_runs_differ_in_length_seed_and_sampler_only(tmp_path):
    study = Study(tmp_path, SIZES["small"], "cpu", 1)
    base = {"plans_name": BASE_PLANS, "other": [1], "configurations": {CONFIGURATION: {"patch_size": [8]}}}
    folder = study.preprocessed / DATASET
    folder.mkdir()
    (folder / f"{BASE_PLANS}.json").write_text(json.dumps(base))
    written = {}
    for run in (Run(ARMS[METHOD], 0), Run(ARMS[METHOD], 1), Run(ARMS["zero_filled"], 0)):
        study.write_plans(run)
        written[run.plans] = json.loads((folder / f"{run.plans}.json").read_text())
    first, second, third = (
        content["configurations"][CONFIGURATION].pop("mstkd") for content in written.values()
    )
    for name, content in written.items():
        assert content == base | {"plans_name": name}
    assert {key for key in first if first[key] != second[key]} == {"seed"}
    assert set(third) - set(first) == {"sampler", "subset_weights"}
    assert {key for key in first if first[key] != third[key]} == {"num_epochs", "full_phase"}


@pytest.mark.slow
def test_one_command_trains_evaluates_and_compares_and_goes_on(tmp_path):
    out = tmp_path / "study"
    command = [sys.executable, "-m", "benchmarks.phantom_study", "-o", out, "--size", "tiny", "--seeds", "1"]
    command += ["--arms", "dropout_after_full", "warm_start"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    differences = pd.read_csv(out / "comparison" / "differences.csv")
    assert set(differences["run"]) == {ARMS[METHOD].title}
    assert (out / "comparison" / "report.html").is_file()
    models = {p: p.stat().st_mtime_ns for p in out.rglob("checkpoint_final.pth")}
    assert len(models) == 2
    shutil.rmtree(out / "evaluations" / "warm_start")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in out.rglob("checkpoint_final.pth")} == models
    assert (out / "evaluations" / "warm_start" / "seed_0" / "table.md").is_file()
