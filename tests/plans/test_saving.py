from __future__ import annotations

import json

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.saving import PLANNER_NAME, check_replaceable, save


def _configuration(patch: int) -> dict:
    return {"data_identifier": "", "patch_size": [patch] * 3, "spacing": [1.0, 1.0, 1.0], "batch_size": 2}


def _plans(**configurations: dict) -> dict:
    return {
        "dataset_name": "Dataset001_A",
        "plans_name": "Ours",
        "transpose_forward": [0, 1, 2],
        "experiment_planner_used": PLANNER_NAME,
        "configurations": configurations,
    }


def _cascade(patch: int) -> dict:
    return _plans(
        **{
            "2d": _configuration(patch),
            "3d_lowres": {**_configuration(patch), "next_stage": "3d_cascade_fullres"},
            "3d_fullres": _configuration(patch),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
    )


def test_what_is_returned_is_what_is_written(tmp_path):
    saved = save(_cascade(64), tmp_path, PlanOptions(), {})
    assert saved.file == tmp_path / "Ours.json"
    assert json.loads(saved.file.read_text()) == saved.plans
    assert list(saved.sources) == ["2d", "3d_lowres", "3d_fullres"]
    assert saved.inheriting == ("3d_cascade_fullres",)
    assert [path.name for path in tmp_path.iterdir()] == ["Ours.json"]


def test_settings_are_stored_once_and_inherited(tmp_path):
    options = PlanOptions(settings={"num_epochs": 3, "preset": "nnunet"})
    configurations = save(_cascade(64), tmp_path, options, {"preset": "official"}).plans["configurations"]
    assert configurations["3d_fullres"]["mstkd"] == {"preset": "nnunet", "num_epochs": 3}
    assert "mstkd" not in configurations["3d_cascade_fullres"]


def test_without_settings_there_is_no_entry_for_them(tmp_path):
    assert "mstkd" not in save(_cascade(64), tmp_path, PlanOptions(), {}).plans["configurations"]["2d"]


def test_planning_one_configuration_keeps_the_others(tmp_path):
    save(_cascade(64), tmp_path, PlanOptions(), {})
    saved = save(_cascade(32), tmp_path, PlanOptions(configurations=("3d_lowres",)), {})
    patches = {name: c.get("patch_size", [0])[0] for name, c in saved.plans["configurations"].items()}
    assert patches == {"3d_lowres": 32, "2d": 64, "3d_fullres": 64, "3d_cascade_fullres": 0}
    assert list(saved.sources) == ["3d_lowres"]


def test_planning_everything_removes_what_the_rules_no_longer_give(tmp_path):
    save(_cascade(64), tmp_path, PlanOptions(), {})
    saved = save(_plans(**{"3d_fullres": _configuration(32)}), tmp_path, PlanOptions(), {})
    assert set(saved.plans["configurations"]) == {"3d_fullres"}


def test_configurations_that_a_user_wrote_stay_with_what_they_need(tmp_path):
    plans = _cascade(64)
    plans["configurations"]["mine"] = {"inherits_from": "3d_lowres", "batch_size": 9}
    save(plans, tmp_path, PlanOptions(configurations=()), {})
    (tmp_path / "Ours.json").write_text(json.dumps(plans))
    saved = save(_plans(**{"3d_fullres": _configuration(32)}), tmp_path, PlanOptions(), {})
    assert set(saved.plans["configurations"]) == {"3d_fullres", "3d_lowres", "mine"}


def test_configurations_with_another_order_of_axes_do_not_share_a_file(tmp_path):
    save(_cascade(64), tmp_path, PlanOptions(), {})
    before = (tmp_path / "Ours.json").read_text()
    turned = {**_plans(**{"2d": _configuration(32)}), "transpose_forward": [2, 0, 1]}
    with pytest.raises(MSTKDError, match=r"another order of axes \(3d_lowres, 3d_fullres, 3d_cascade"):
        save(turned, tmp_path, PlanOptions(configurations=("2d",)), {})
    assert (tmp_path / "Ours.json").read_text() == before


def test_a_configuration_that_nnunet_does_not_plan_is_refused(tmp_path):
    with pytest.raises(MSTKDError, match=r"3d_lowres does not exist for Dataset001_A.*give 2d$"):
        save(_plans(**{"2d": _configuration(32)}), tmp_path, PlanOptions(configurations=("3d_lowres",)), {})
    assert not list(tmp_path.iterdir())


def test_only_our_own_files_are_replaced(tmp_path):
    target = tmp_path / "Ours.json"
    check_replaceable(target)
    save(_cascade(64), tmp_path, PlanOptions(), {})
    check_replaceable(target)
    target.write_text(json.dumps({**_cascade(64), "experiment_planner_used": "ExperimentPlanner"}))
    with pytest.raises(MSTKDError, match=r"Ours\.json was written by ExperimentPlanner"):
        check_replaceable(target)
