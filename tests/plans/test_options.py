from __future__ import annotations

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.plans.options import PlanOptions, parse_assignments, plans_name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "unet"}, "unknown network 'unet'; known: mstkdnet, plans"),
        ({"preset": "tiny"}, "unknown preset 'tiny'"),
        ({"configurations": ("3d",)}, "unknown configuration '3d'"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"min_batch_size": -1}, "--min-batch-size -1"),
        ({"base_features": 0}, "--base-features 0"),
        ({"max_features": 0}, "--max-features 0"),
        ({"max_stages": 1}, "--max-stages 1"),
        ({"token_patch": (3,)}, "--token-patch 3 is not possible; give 1, 2, 4 or 8"),
        ({"token_patch": (1, 1, 1, 1)}, "--token-patch 1 1 1 1 is not possible"),
        ({"token_patch": (1, 2, 4), "configurations": ("2d",)}, "--token-patch 1 2 4 does not fit -c 2d"),
        ({"batch_size": 4, "min_batch_size": 9}, "--batch-size 4 is below --min-batch-size 9"),
        ({"token_patch": (2,), "network": "plans"}, "--token-patch 2 is of MSTKDNet"),
        ({"token_patch": (2,), "preset": "official"}, "--token-patch does not go with"),
        ({"patch_size": (64,)}, "has 1 axes"),
        ({"patch_size": (64, 64, 64, 64)}, "has 4 axes"),
        ({"patch_size": (64, 0, 64)}, "--patch-size 64 0 64"),
        ({"patch_size": (64, 64, -8)}, "at least 1 voxel"),
        ({"patch_size": (64, 64), "configurations": ("2d", "3d_fullres")}, "configuration 3d_fullres has 3"),
        ({"patch_size": (64, 64, 64), "configurations": ("2d",)}, "configuration 2d has 2"),
        ({"preset": "official", "network": "plans"}, "--preset official is of MSTKDNet"),
        ({"preset": "official", "base_features": 32}, "--base-features does not go with --preset official"),
        ({"preset": "official", "max_stages": 3}, "--max-stages does not go with"),
        ({"settings": {"epochs": 3}}, "unknown setting 'epochs'.*num_epochs"),
        ({"settings": {"num_epochs": 0}}, "setting 'num_epochs'.* is 0"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(MSTKDError, match=message):
        PlanOptions(**arguments)


def test_every_configuration_is_chosen_by_default():
    assert PlanOptions().chosen("2d")
    assert PlanOptions().chosen("3d_cascade_fullres")


def test_choosing_the_cascade_chooses_what_it_is_built_on():
    options = PlanOptions(configurations=("3d_cascade_fullres",))
    chosen = {
        name for name in ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres") if options.chosen(name)
    }
    assert chosen == {"3d_lowres", "3d_fullres", "3d_cascade_fullres"}


def test_a_patch_is_meant_for_chosen_configurations_with_its_number_of_axes():
    everywhere = PlanOptions(patch_size=(64, 64, 32))
    assert everywhere.patch_for("3d_fullres", 3) == (64, 64, 32)
    assert everywhere.patch_for("3d_lowres", 3) == (64, 64, 32)
    assert everywhere.patch_for("2d", 2) is None
    chosen = PlanOptions(patch_size=(64, 64, 32), configurations=("3d_fullres",))
    assert chosen.patch_for("3d_fullres", 3) == (64, 64, 32)
    assert chosen.patch_for("3d_lowres", 3) is None


def test_default_names_of_the_plans_file():
    assert plans_name("mstkdnet", None) == "nnUNetMSTKDPlans"
    assert plans_name("plans", "nnUNetEqualPlans") == "nnUNetEqualPlans"


@pytest.mark.parametrize(
    ("network", "name", "message"),
    [
        ("plans", None, "-overwrite_plans_name NAME"),
        ("plans", "nnUNetPlans", "overwrite nnU-Net's own plans"),
        ("mstkdnet", "nnUNetPlans", "overwrite nnU-Net's own plans"),
        ("mstkdnet", "../x", "'../x' is not possible"),
        ("mstkdnet", "a__b", "'a__b' is not possible"),
        ("mstkdnet", "", "'' is not possible"),
        ("mstkdnet", "..", "'..' is not possible"),
        ("mstkdnet", "-x", "'-x' is not possible"),
        ("mstkdnet", "a" * 300, "has 300 characters"),
    ],
)
def test_bad_names_of_the_plans_file(network, name, message):
    with pytest.raises(MSTKDError, match=message):
        plans_name(network, name)


def test_assignments_are_json_where_they_can_be():
    parsed = parse_assignments(
        [
            "num_epochs=250",
            "full_phase=0.5",
            "teacher=joint",
            'weights={"kl": 2}',
            "enable_deep_supervision=false",
        ]
    )
    assert parsed == {
        "num_epochs": 250,
        "full_phase": 0.5,
        "teacher": "joint",
        "weights": {"kl": 2},
        "enable_deep_supervision": False,
    }


def test_a_value_may_contain_an_equals_sign_and_the_last_assignment_wins():
    assert parse_assignments(["a=x=y", "b=1", "b=2"]) == {"a": "x=y", "b": 2}


@pytest.mark.parametrize("assignment", ["num_epochs", "=3", " =3"])
def test_an_assignment_without_key_or_value_is_refused(assignment):
    with pytest.raises(MSTKDError, match="is not KEY=VALUE"):
        parse_assignments([assignment])
