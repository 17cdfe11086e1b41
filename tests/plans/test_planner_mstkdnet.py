"""Planning MSTKDNet for data sets of different shapes."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.plan_dataset import Planned, plan_dataset


def _configurations(planned: Planned) -> dict:
    return planned.saved.plans["configurations"]


def _voxels(configuration: dict) -> int:
    return int(torch.tensor(configuration["patch_size"]).prod())


def _network(configuration: ConfigurationManager, channels: int, outputs: int) -> MSTKDNet:
    with torch.device("meta"):
        return get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            channels,
            outputs,
            allow_init=False,
            deep_supervision=True,
        )


@pytest.mark.parametrize(
    ("dataset", "channels", "outputs"),
    [("brats", 4, 3), ("prostate", 2, 2), ("slices", 1, 2), ("large", 1, 2)],
)
def test_nnunet_can_build_every_configuration_and_run_its_patch(dataset, channels, outputs, request):
    folder = request.getfixturevalue(dataset)
    planned = plan_dataset(folder.name, PlanOptions())
    manager = PlansManager(str(planned.saved.file))
    names = {"slices": ["2d"], "large": ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]}
    assert manager.available_configurations == names.get(dataset, ["2d", "3d_fullres"])
    for name in manager.available_configurations:
        configuration = manager.get_configuration(name)
        extra = 1 if configuration.previous_stage_name else 0
        network = _network(configuration, channels + extra, outputs)
        patch = configuration.patch_size
        x = torch.empty(configuration.batch_size, channels + extra, *patch, device="meta")
        logits = network(x)
        # nnU-Net scales its targets by these strides.
        assert len(logits) == len(configuration.pool_op_kernel_sizes) - 1
        expected = torch.tensor(patch)
        for output, stride in zip(logits, configuration.pool_op_kernel_sizes, strict=False):
            expected = expected // torch.tensor(stride)
            assert list(output.shape) == [configuration.batch_size, outputs, *expected.tolist()]


def test_the_cascade_keeps_its_links(large):
    planned = plan_dataset("9", PlanOptions(settings={"num_epochs": 7}))
    configurations = _configurations(planned)
    assert configurations["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
    assert configurations["3d_cascade_fullres"] == {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    cascade = PlansManager(dict(planned.saved.plans)).get_configuration("3d_cascade_fullres")
    assert cascade.previous_stage_name == "3d_lowres"
    assert cascade.configuration["mstkd"] == {"num_epochs": 7}


def test_anisotropic_spacing_gives_nnunets_anisotropic_strides(prostate):
    kwargs = _configurations(plan_dataset("5", PlanOptions()))["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]]
    assert kwargs["kernel_sizes"] == [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_memory_target_grows_and_shrinks_the_patch(brats):
    plans = {
        target: plan_dataset("226", PlanOptions(configurations=("3d_fullres",)), gpu_memory_target=target)
        for target in (4, 8, 16)
    }
    voxels = [_voxels(_configurations(plan)["3d_fullres"]) for plan in plans.values()]
    assert voxels[0] < voxels[1] < voxels[2]
    for target, plan in plans.items():
        batch = _configurations(plan)["3d_fullres"]["batch_size"]
        assert batch >= 2
        assert plan.memory["3d_fullres"].total_bytes(batch) <= target * 1e9


def test_at_nnunets_memory_the_patch_is_at_least_nnunets(brats):
    plan_experiments([226])
    theirs = PlansManager(str(brats / "nnUNetPlans.json")).get_configuration("3d_fullres")
    ours = _configurations(plan_dataset("226", PlanOptions()))["3d_fullres"]
    assert _voxels(ours) >= _voxels(theirs.configuration)


def test_a_joint_teacher_needs_a_smaller_patch(brats):
    alone = plan_dataset("226", PlanOptions(configurations=("3d_fullres",)))
    joint = plan_dataset("226", PlanOptions(configurations=("3d_fullres",), settings={"teacher": "joint"}))
    assert _voxels(_configurations(joint)["3d_fullres"]) < _voxels(_configurations(alone)["3d_fullres"])


def test_overrides_are_honoured(brats):
    options = PlanOptions(
        configurations=("3d_fullres",),
        patch_size=(64, 96, 48),
        batch_size=3,
        base_features=8,
        max_features=24,
        max_stages=5,
    )
    configuration = _configurations(plan_dataset("226", options))["3d_fullres"]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert configuration["patch_size"] == kwargs["patch_size"] == [64, 96, 48]
    assert configuration["batch_size"] == 3
    assert kwargs["features_per_stage"] == [8, 16, 24, 24, 24]


def test_a_2d_patch_is_meant_for_2d(brats):
    options = PlanOptions(patch_size=(64, 96))
    configurations = _configurations(plan_dataset("226", options))
    assert configurations["2d"]["patch_size"] == [64, 96]
    assert configurations["3d_fullres"]["patch_size"] != [64, 96]


def test_the_official_preset(brats):
    options = PlanOptions(preset="official", configurations=("3d_fullres",), settings={"num_epochs": 100})
    configuration = _configurations(plan_dataset("226", options, gpu_memory_target=32))["3d_fullres"]
    # The published 160×192×128 (x, y, z), in nnU-Net's order of axes.
    assert configuration["patch_size"] == [128, 192, 160]
    assert configuration["batch_size"] == 1
    assert configuration["mstkd"] == {"enable_deep_supervision": False, "num_epochs": 100}
    assert configuration["median_image_size_in_voxels"] == [140, 171, 137]
    kwargs = configuration["architecture"]["arch_kwargs"]
    assert (kwargs["preset"], kwargs["token_layers"]) == ("official", 12)


def test_the_official_preset_gets_a_smaller_patch_where_memory_is_short(brats):
    options = PlanOptions(preset="official", configurations=("3d_fullres",))
    planned = plan_dataset("226", options, gpu_memory_target=16)
    configuration = _configurations(planned)["3d_fullres"]
    assert configuration["batch_size"] == 1
    assert _voxels(configuration) < 128 * 192 * 160
    assert planned.memory["3d_fullres"].total_bytes(1) <= 16e9
