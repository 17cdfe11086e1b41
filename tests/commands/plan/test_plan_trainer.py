"""``plan --trainer``: settings and memory of the trainer that the plans are for."""

from __future__ import annotations

import json

import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.methods import METHODS
from nnunetv2_mstkd.plans.memory import estimate_memory
from nnunetv2_mstkd.plans.options import PlanOptions

OWN_NETWORKS = [m.trainer for m in METHODS if getattr(m.load(), "network_class", None) is not None]


def plan(*arguments: str) -> int:
    return main(["plan", "-d", "226", "-c", "3d_fullres", *arguments])


def configuration(folder, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())["configurations"]["3d_fullres"]


@pytest.mark.slow
def test_plans_for_a_method_are_named_after_it_and_hold_its_settings(brats, capsys):
    sizes = ("--patch-size", "64", "64", "64", "--base-features", "8", "--max-stages", "4")
    assert plan("--trainer", "nnUNetTrainerRFNet", *sizes, "--set", "fusion_start=0") == 0
    planned = configuration(brats, "nnUNetRFNetPlans")
    assert planned["mstkd"] == {"base_features": 8, "fusion_start": 0}
    assert planned["architecture"]["network_class_name"].endswith("PlainConvUNet")
    output = capsys.readouterr().out
    assert output.splitlines()[2].split()[3] == "8"
    assert "-p nnUNetRFNetPlans -tr nnUNetTrainerRFNet" in output


def test_a_trainer_of_the_plans_network_is_planned_as_ever(brats, capsys):
    arguments = ("--patch-size", "64", "64", "64", "--set", "full_phase=0.5")
    assert plan("--trainer", "nnUNetTrainerModalityDropout", *arguments) == 0
    assert configuration(brats, "nnUNetMSTKDPlans")["mstkd"] == {"full_phase": 0.5}
    assert "-p nnUNetMSTKDPlans -tr nnUNetTrainerModalityDropout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer", "nnUNetTrainerNobody"], "no trainer 'nnUNetTrainerNobody' is found"),
        (
            ["--trainer", "nnUNetTrainerModalityDropout", "--set", "teacher=joint"],
            "nnUNetTrainerModalityDropout does not read the setting 'teacher'",
        ),
        (["--trainer", "nnUNetTrainer", "--set", "num_epochs=3"], "nnUNetTrainer does not read the setting"),
        (["--trainer", "nnUNetTrainerRFNet", "--network", "mstkdnet"], "has a network of its own"),
        (["--trainer", "nnUNetTrainerSMUNet", "--base-features", "4"], "'base_features'"),
    ],
)
def test_what_does_not_go_together_is_refused(brats, capsys, arguments, message):
    assert plan(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(brats.glob("nnUNet*Plans.json"))


def stated(trainer: str, patch: int, **settings) -> float:
    """GB of one patch, and of what does not depend on the batch."""
    strides = [[1] * 3, [2] * 3, [2] * 3, [2] * 3]
    architecture = {"network_class_name": "", "arch_kwargs": {"strides": strides}, "_kw_requires_import": []}
    options = PlanOptions(network="plans", trainer=trainer, settings={"base_features": 8, **settings})
    return estimate_memory(architecture, (patch,) * 3, 4, 3, options, nnunet_bytes=1.0)


@pytest.mark.parametrize("trainer", OWN_NETWORKS)
def test_memory_grows_with_the_patch_and_not_the_weights(trainer):
    small, large = stated(trainer, 32), stated(trainer, 64)
    assert small.per_patch_bytes > 0
    assert 5 < large.per_patch_bytes / small.per_patch_bytes < 12
    assert small.fixed_bytes > 0


def test_a_joint_teacher_costs_a_second_network_and_a_frozen_one_its_weights():
    joint = stated("nnUNetTrainerSMUNet", 32)
    frozen = stated("nnUNetTrainerSMUNet", 32, teacher="warm_start", full_phase=0.5)
    assert joint.per_patch_bytes == 2 * frozen.per_patch_bytes
    assert joint.fixed_bytes == pytest.approx(frozen.fixed_bytes * 36 / 24)
