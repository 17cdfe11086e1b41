from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from nnunetv2_mstkd.plans.data_reuse import DataSource, find_source, resolve, same_data


def _configuration(identifier: str, **changes: object) -> dict:
    return {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [128, 128, 128],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"order": 3},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"order": 1},
        **changes,
    }


def _plans(name: str, **configurations: dict) -> dict:
    return {
        "plans_name": name,
        "transpose_forward": [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
        "configurations": configurations,
    }


def _write(folder: Path, plans: dict) -> None:
    (folder / f"{plans['plans_name']}.json").write_text(json.dumps(plans))


def _fill(folder: Path, identifier: str, cases: int) -> None:
    (folder / identifier).mkdir()
    for case in range(cases):
        (folder / identifier / f"case{case}.pkl").touch()


@pytest.fixture
def ours() -> dict:
    return _plans("Ours", **{"3d_fullres": _configuration("Ours_3d_fullres", patch_size=[64, 64, 64])})


@pytest.fixture
def theirs() -> dict:
    return _plans("nnUNetPlans", **{"3d_fullres": _configuration("nnUNetPlans_3d_fullres")})


def test_inheritance_is_resolved_with_the_child_on_top():
    plans = _plans("p", a=_configuration("p_a"), b={"inherits_from": "a", "batch_size": 7})
    assert resolve(plans, "b") == {**_configuration("p_a"), "inherits_from": "a", "batch_size": 7}


def test_patch_batch_and_network_do_not_matter():
    other = _configuration("x", batch_size=9, patch_size=[32, 32, 32], architecture={"n": 1})
    assert same_data(_configuration("y"), other)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [1.0, 1.0, 1.1]},
        {"spacing": [1.0, 1.0]},
        {"normalization_schemes": ["CTNormalization"]},
        {"use_mask_for_norm": [False]},
        {"resampling_fn_data": "no_resampling_hack"},
        {"resampling_fn_data_kwargs": {"order": 1}},
        {"resampling_fn_seg": "no_resampling_hack"},
        {"resampling_fn_seg_kwargs": {"order": 0}},
        {"preprocessor_name": "Own"},
    ],
)
def test_whatever_changes_the_voxels_matters(change):
    assert not same_data(_configuration("y"), _configuration("x", **change))


def test_data_of_nnunets_plans_is_shared(tmp_path, ours, theirs):
    _write(tmp_path, theirs)
    _fill(tmp_path, "nnUNetPlans_3d_fullres", 3)
    source = find_source(ours, "3d_fullres", tmp_path)
    assert source == DataSource("nnUNetPlans_3d_fullres", "nnUNetPlans", "3d_fullres", 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transpose_forward", [1, 0, 2]),
        ("image_reader_writer", "NibabelIO"),
        ("foreground_intensity_properties_per_channel", {"0": {"mean": 2.0}}),
    ],
)
def test_data_of_plans_with_other_plans_wide_entries_is_not_shared(tmp_path, ours, theirs, key, value):
    _write(tmp_path, {**theirs, key: value})
    _fill(tmp_path, "nnUNetPlans_3d_fullres", 3)
    assert find_source(ours, "3d_fullres", tmp_path) == DataSource("Ours_3d_fullres", "Ours", "3d_fullres", 0)


def test_without_other_plans_it_is_a_folder_of_its_own(tmp_path, ours):
    assert find_source(ours, "3d_fullres", tmp_path) == DataSource("Ours_3d_fullres", "Ours", "3d_fullres", 0)


def test_empty_data_of_nnunets_plans_comes_before_a_folder_of_its_own(tmp_path, ours, theirs):
    _write(tmp_path, theirs)
    assert find_source(ours, "3d_fullres", tmp_path).identifier == "nnUNetPlans_3d_fullres"


def test_filled_data_comes_before_empty_data(tmp_path, ours, theirs):
    _write(tmp_path, theirs)
    another = copy.deepcopy(theirs)
    another["plans_name"] = "Another"
    another["configurations"]["3d_fullres"]["data_identifier"] = "Another_3d_fullres"
    _write(tmp_path, another)
    _fill(tmp_path, "Another_3d_fullres", 2)
    assert find_source(ours, "3d_fullres", tmp_path).identifier == "Another_3d_fullres"


def test_own_data_of_an_earlier_plan_with_the_same_spacing_is_kept(tmp_path, ours):
    _write(tmp_path, ours)
    _fill(tmp_path, "Ours_3d_fullres", 4)
    assert find_source(ours, "3d_fullres", tmp_path).cases == 4


def test_own_data_of_an_earlier_plan_with_another_spacing_does_not_count(tmp_path, ours):
    earlier = _plans("Ours", **{"3d_fullres": _configuration("Ours_3d_fullres", spacing=[2.0, 2.0, 2.0])})
    _write(tmp_path, earlier)
    _fill(tmp_path, "Ours_3d_fullres", 4)
    assert find_source(ours, "3d_fullres", tmp_path) == DataSource("Ours_3d_fullres", "Ours", "3d_fullres", 0)


def test_foreign_and_broken_json_files_are_passed_over(tmp_path, ours):
    (tmp_path / "splits_final.json").write_text("[]")
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    assert find_source(ours, "3d_fullres", tmp_path).plans == "Ours"
