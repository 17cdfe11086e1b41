"""A quick look at the study: what it would run, and one arm of the tiny size up to its plans."""

from __future__ import annotations

from benchmarks.study import __main__ as command
from benchmarks.study.arms import ARMS, METHOD
from benchmarks.study.phantom import Phantom
from benchmarks.study.runs import Run
from benchmarks.study.study import Study
from benchmarks.study.workplace import BASE_PLANS, Workplace
from nnunetv2_mstkd.files import read_json, write_json


def test_listing_costs_makes_nothing(tmp_path, capsys):
    out = tmp_path / "none"
    assert command.main(["-o", str(out), "--list", "--seeds", "1", "--parts", "few_labels"]) == 0
    assert "3 runs, 2300 student steps" in capsys.readouterr().out
    assert not out.exists()


def test_the_plans_of_a_tiny_arm_hold_its_settings(tmp_path):
    data, run = Phantom(), Run(ARMS[METHOD], 0)
    study = Study(Workplace(tmp_path, data, "tiny", "cpu", 1), data)
    base = study.work.plans(BASE_PLANS)
    base.parent.mkdir(parents=True)
    write_json(
        {"plans_name": BASE_PLANS, "configurations": {Phantom.configuration: {"patch_size": [8]}}}, base
    )
    study.write_plans(run)
    plans = read_json(study.work.plans(run.plans))
    assert plans["plans_name"] == run.plans
    assert plans["configurations"][Phantom.configuration]["mstkd"] == study.settings(run)
