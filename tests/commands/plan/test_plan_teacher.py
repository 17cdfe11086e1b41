"""``nnUNetv2_mstkd plan --teacher``: plans that a finished model can teach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunetv2_mstkd.cli import main

PATCH = [96, 128, 96]


def finished(preprocessed: Path, tmp_path: Path, *options: str, trainer: str = "nnUNetTrainer") -> Path:
    """The folder of a model on the data set that was planned with these options."""
    dataset = str(int(preprocessed.name[len("Dataset") :].split("_")[0]))
    assert main(["plan", "-d", dataset, *options, "-overwrite_plans_name", "Teacher"]) == 0
    configuration = options[options.index("-c") + 1]
    folder = tmp_path / f"{trainer}__Teacher__{configuration}"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    raw = preprocessed.parents[1] / "nnUNet_raw" / preprocessed.name
    (folder / "dataset.json").write_text((raw / "dataset.json").read_text())
    (folder / "plans.json").write_text((preprocessed / "Teacher.json").read_text())
    return folder


@pytest.fixture
def model(brats: Path, tmp_path: Path) -> Path:
    """A model that was planned for another patch on the same data."""
    patch = ["--patch-size", *map(str, PATCH)]
    return finished(brats, tmp_path, "-c", "3d_fullres", "--network", "plans", *patch)


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


SMALL = ("-c", "3d_fullres", "--patch-size", "64", "64", "64", "--batch-size", "3")
STUDENT = ("--network", "plans", "-overwrite_plans_name", "nnUNetMSTKDPlans")


def test_the_network_of_a_teacher_of_nnunets_kind_is_the_students(brats, tmp_path, capsys):
    """Whatever its planner was: README promises the same architecture and inference cost."""
    options = (*SMALL, "--network", "plans", "-pl", "nnUNetPlannerResEncM")
    model = finished(brats, tmp_path, *options)
    capsys.readouterr()
    assert main(["plan", "-d", "226", "--teacher", str(model), *STUDENT]) == 0
    out = capsys.readouterr().out
    assert "3d_fullres: 100% of the student's weights (ResidualEncoderUNet) start from the teacher's" in out
    theirs = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    for key in ("architecture", "batch_size", "patch_size"):
        assert planned(brats)["3d_fullres"][key] == theirs[key], key


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        ("--base-features", "8", "--max-stages", "5", "--token-patch", "1"),
        ("--preset", "official"),
    ],
)
def test_the_mstkdnet_of_a_teacher_is_the_students_also_at_another_patch(brats, tmp_path, capsys, sizes):
    model = finished(
        brats, tmp_path, *SMALL, *sizes, "-gpu_memory_target", "80", trainer="nnUNetTrainerMSTKD"
    )
    capsys.readouterr()
    patch = ("--patch-size", "32", "64", "64")
    assert main(["plan", "-d", "226", "--teacher", str(model), *patch]) == 0
    out = capsys.readouterr().out
    assert "3d_fullres: 100% of the student's weights (MSTKDNet) start from the teacher's" in out
    assert "-tr nnUNetTrainerMSTKDFrozenTeacher" in out
    theirs = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]["architecture"]
    kwargs = planned(brats)["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs == theirs["arch_kwargs"] | {"patch_size": [32, 64, 64]}


def test_what_does_not_transfer_is_said_at_once(brats, model, capsys):
    capsys.readouterr()
    assert main(["plan", "-d", "226", "--teacher", str(model)]) == 0
    out = capsys.readouterr().out
    assert "of another kind (PlainConvUNet, the student's is MSTKDNet): 0% of its weights transfer" in out
    assert main(["plan", "-d", "226", "--teacher", str(model), *STUDENT, "--base-features", "8"]) == 0
    assert "3d_fullres: 0% of the student's weights (PlainConvUNet)" in capsys.readouterr().out


def test_a_cascade_teaches_a_cascade(large, tmp_path, capsys):
    """3d_lowres and 3d_fullres, which a cascade is built on, are none of its teacher's business."""
    options = ("-c", "3d_cascade_fullres", "--network", "plans", "--patch-size", "64", "128", "128")
    model = finished(large, tmp_path, *options)
    capsys.readouterr()
    settings = ("--set", "num_epochs=500")
    assert main(["plan", "-d", "9", "--teacher", str(model), *STUDENT, *settings]) == 0
    out = capsys.readouterr().out
    assert "3d_cascade_fullres: 100% of the student's weights (PlainConvUNet)" in out
    assert "train 9 3d_cascade_fullres 0 -p nnUNetMSTKDPlans -tr nnUNetTrainerMSTKDUNet" in out
    configurations = planned(large)
    assert configurations["3d_cascade_fullres"]["mstkd"] == {"teacher": str(model), "num_epochs": 500}
    assert configurations["3d_fullres"]["patch_size"] == [64, 128, 128], "the cascade's"
    assert configurations["3d_lowres"]["patch_size"] != [64, 128, 128]
    for helper in ("3d_lowres", "3d_fullres"):
        assert configurations[helper]["mstkd"] == {"num_epochs": 500}


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
        (["--teacher", "MODEL", "--set", "teacher=joint"], "--teacher and --set teacher=... both name"),
    ],
)
def test_wrong_teachers(brats, model, capsys, arguments, message):
    capsys.readouterr()
    given = [str(model) if a == "MODEL" else a for a in arguments]
    assert main(["plan", "-d", "226", *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
