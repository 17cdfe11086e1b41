"""``nnUNetv2_mstkd plan --teacher``: plans that a finished model can teach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunetv2_mstkd.cli import main

PATCH = [96, 128, 96]


@pytest.fixture
def model(brats: Path, tmp_path: Path) -> Path:
    """The folder of a model that was planned for another patch on the same data."""
    options = ["-c", "3d_fullres", "--network", "plans", "-overwrite_plans_name", "Teacher"]
    assert main(["plan", "-d", "226", *options, "--patch-size", *map(str, PATCH)]) == 0
    folder = tmp_path / "nnUNetTrainer__Teacher__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    raw = brats.parents[1] / "nnUNet_raw" / brats.name
    (folder / "dataset.json").write_text((raw / "dataset.json").read_text())
    (folder / "plans.json").write_text((brats / "Teacher.json").read_text())
    return folder


def planned(folder: Path) -> dict:
    return json.loads((folder / "nnUNetMSTKDPlans.json").read_text())["configurations"]


def test_the_plans_name_the_teacher_and_keep_to_its_patch(brats, model, capsys):
    capsys.readouterr()
    assert main(["plan", "-d", "226", "--teacher", str(model), "--teacher-fold", "0"]) == 0
    assert "-tr nnUNetTrainerMSTKDFrozenTeacher" in capsys.readouterr().out
    configurations = planned(brats)
    assert list(configurations) == ["3d_fullres"], "the teacher's"
    assert configurations["3d_fullres"]["patch_size"] == PATCH
    assert configurations["3d_fullres"]["mstkd"] == {"teacher": str(model), "teacher_fold": 0}


def test_a_student_of_nnunets_own_kind(brats, model, capsys):
    name = ["-overwrite_plans_name", "Student"]
    assert main(["plan", "-d", "226", "--network", "plans", "--teacher", str(model), *name]) == 0
    assert "-p Student -tr nnUNetTrainerMSTKDUNet" in capsys.readouterr().out


def test_what_the_user_chooses_wins(brats, model):
    chosen = ["--patch-size", "64", "64", "64", "--set", "teacher_on_incomplete=skip"]
    assert main(["plan", "-d", "226", "--teacher", str(model), *chosen]) == 0
    assert planned(brats)["3d_fullres"]["patch_size"] == [64, 64, 64]
    assert planned(brats)["3d_fullres"]["mstkd"]["teacher_on_incomplete"] == "skip"


def test_a_teacher_of_another_spacing_is_followed(brats, model):
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [1.5, 1.25, 1.5]
    (model / "plans.json").write_text(json.dumps(plans))
    assert main(["plan", "-d", "226", "--teacher", str(model)]) == 0
    assert planned(brats)["3d_fullres"]["spacing"] == [1.5, 1.25, 1.5]


@pytest.mark.parametrize("given", ["--teacher", "--set"])
def test_a_misfit_is_refused_and_nothing_written(brats, model, capsys, given):
    dataset = json.loads((model / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "lesion": 1, "oedema": 2}
    (model / "dataset.json").write_text(json.dumps(dataset))
    capsys.readouterr()
    value = str(model) if given == "--teacher" else f"teacher={model}"
    assert main(["plan", "-d", "226", given, value]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "oedema" in line
    assert not (brats / "nnUNetMSTKDPlans.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "nowhere"], "model folder not found: nowhere"),
        (["--teacher-fold", "1"], "give --teacher FOLDER"),
        (["--teacher", "MODEL", "--teacher-fold", "3"], "no fold_3/checkpoint_final.pth; it has fold_0"),
        (["--teacher", "MODEL", "--teacher-checkpoint", "other.pth"], "no other.pth; it has fold_0"),
        (["--teacher", "MODEL", "-c", "2d"], "number of axes is 3, here 2"),
    ],
)
def test_wrong_teachers(brats, model, capsys, arguments, message):
    capsys.readouterr()
    given = [str(model) if a == "MODEL" else a for a in arguments]
    assert main(["plan", "-d", "226", *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
