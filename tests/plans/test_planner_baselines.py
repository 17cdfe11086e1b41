"""``network="plans"``: nnU-Net's own network under the same overrides."""

from __future__ import annotations

import json

import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.plan_dataset import Planned, plan_dataset


def _plan(dataset: str, options: PlanOptions | None = None, **arguments) -> Planned:
    options = options or PlanOptions(network="plans")
    return plan_dataset(dataset, options, name="nnUNetEqualPlans", **arguments)


def _configurations(planned: Planned) -> dict:
    return planned.saved.plans["configurations"]


@pytest.mark.parametrize(
    ("dataset", "planner"),
    [
        ("brats", "ExperimentPlanner"),
        ("prostate", "nnUNetPlannerResEncM"),
        ("slices", "ExperimentPlanner"),
        ("large", "ExperimentPlanner"),
    ],
)
def test_without_overrides_the_plans_are_nnunets_own(dataset, planner, request):
    folder = request.getfixturevalue(dataset)
    number = int(folder.name[len("Dataset") :][:3])
    plan_experiments([number], planner)
    file = next(path for path in folder.glob("*.json") if path.stem.endswith("Plans"))
    theirs = json.loads(file.read_text())
    ours = json.loads(_plan(str(number), planner_name=planner).saved.file.read_text())
    assert ours["configurations"].keys() == theirs["configurations"].keys()
    for name in theirs["configurations"]:
        a, b = theirs["configurations"][name], ours["configurations"][name]
        a.pop("data_identifier", None)
        b.pop("data_identifier", None)
        assert a == b
    different = {key for key in theirs if ours[key] != theirs[key]}
    assert different == {"plans_name", "experiment_planner_used"}


def test_overrides_are_honoured(brats):
    options = PlanOptions(
        network="plans",
        configurations=("3d_fullres",),
        patch_size=(96, 96, 64),
        batch_size=3,
        base_features=8,
        max_features=24,
        max_stages=4,
    )
    configuration = _configurations(_plan("226", options))["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert list(configuration["patch_size"]) == [96, 96, 64]
    assert configuration["batch_size"] == 3
    assert list(kwargs["features_per_stage"]) == [8, 16, 24, 24]
    assert len(kwargs["strides"]) == len(kwargs["kernel_sizes"]) == kwargs["n_stages"] == 4
    assert configuration["architecture"]["network_class_name"].endswith("PlainConvUNet")


def test_residual_encoders_take_the_same_overrides(brats):
    options = PlanOptions(
        network="plans", configurations=("3d_fullres",), patch_size=(64, 64, 64), batch_size=2
    )
    planned = _plan("226", options, planner_name="nnUNetPlannerResEncM")
    configuration = _configurations(planned)["3d_fullres"]
    assert list(configuration["patch_size"]) == [64, 64, 64]
    assert configuration["architecture"]["network_class_name"].endswith("ResidualEncoderUNet")
    assert list(configuration["architecture"]["arch_kwargs"]["n_blocks_per_stage"]) == [1, 3, 4, 6, 6]


@pytest.mark.parametrize("planner", ["ExperimentPlanner", "nnUNetPlannerResEncM"])
def test_the_patch_shrinks_until_the_wanted_batch_fits(brats, planner):
    sizes = {}
    for batch in (1, 2, 8):
        options = PlanOptions(network="plans", configurations=("3d_fullres",), batch_size=batch)
        planned = _plan("226", options, planner_name=planner)
        patch = _configurations(planned)["3d_fullres"]["patch_size"]
        sizes[batch] = patch[0] * patch[1] * patch[2]
        assert planned.memory["3d_fullres"].patches_within(8e9) >= batch
    assert sizes[8] < sizes[2] < sizes[1]


def test_a_smallest_batch_is_reached_by_a_smaller_patch(brats):
    options = PlanOptions(network="plans", configurations=("3d_fullres",), min_batch_size=6)
    planned = _plan("226", options)
    assert _configurations(planned)["3d_fullres"]["batch_size"] >= 6
    assert planned.memory["3d_fullres"].patches_within(8e9) >= 6


def test_a_chosen_patch_gets_the_batch_that_fits(brats):
    small = PlanOptions(network="plans", configurations=("3d_fullres",), patch_size=(64, 64, 64))
    large = PlanOptions(network="plans", configurations=("3d_fullres",), patch_size=(160, 192, 160))
    assert _configurations(_plan("226", small))["3d_fullres"]["batch_size"] > 10
    # nnU-Net's smallest batch of two does not fit, but one patch does.
    assert _configurations(_plan("226", large))["3d_fullres"]["batch_size"] == 1


def test_a_chosen_patch_that_does_not_fit_is_refused(brats):
    options = PlanOptions(network="plans", configurations=("3d_fullres",), patch_size=(160, 192, 160))
    with pytest.raises(MSTKDError, match=r"160 192 160 with batch size 1 needs about .* GB, more than.* 2;"):
        _plan("226", options, gpu_memory_target=2)
    wanting_two = PlanOptions(
        network="plans", configurations=("3d_fullres",), patch_size=(160, 192, 160), min_batch_size=2
    )
    with pytest.raises(MSTKDError, match="with batch size 2 needs about"):
        _plan("226", wanting_two)


def test_a_patch_for_one_configuration_leaves_the_search_for_the_others_alone(large):
    chosen = _configurations(_plan("9"))
    options = PlanOptions(network="plans", configurations=("2d",), patch_size=(64, 64))
    written = _configurations(_plan("9", options))
    assert list(written["2d"]["patch_size"]) == [64, 64]
    assert written["3d_fullres"] == chosen["3d_fullres"]


def test_target_spacing_gives_data_of_its_own(brats):
    plan_experiments([226])
    planned = _plan("226", target_spacing=(2, 2, 2))
    assert list(_configurations(planned)["3d_fullres"]["spacing"]) == [2, 2, 2]
    assert planned.saved.sources["3d_fullres"].identifier == "nnUNetEqualPlans_3d_fullres"


def test_memory_target_grows_and_shrinks_the_patch(brats):
    voxels = []
    for target in (4, 8, 16):
        patch = _configurations(_plan("226", gpu_memory_target=target))["3d_fullres"]["patch_size"]
        voxels.append(patch[0] * patch[1] * patch[2])
    assert voxels[0] < voxels[1] < voxels[2]


def test_threads_and_loader_processes_play_no_part(brats, monkeypatch):
    expected = _configurations(_plan("226"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert _configurations(_plan("226")) == expected
