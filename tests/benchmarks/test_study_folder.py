"""What the study makes of a folder that was left in the middle, or belongs to another study."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from study_recorder import Recorder

from benchmarks.study import __main__ as command
from benchmarks.study.arms import ARMS, BAR
from benchmarks.study.parts import PARTS
from benchmarks.study.patients import Patients
from benchmarks.study.phantom import Phantom, add_few_labels
from benchmarks.study.resume import CONTINUE, FINISHED, FROM_SCRATCH, VALIDATE, how_to_go_on
from benchmarks.study.runs import FEW_FOLD
from benchmarks.study.sizes import SIZES
from benchmarks.study.study import Study, _is_whole
from benchmarks.study.timing import FULL, MASKED, EpochTime, epoch_times
from benchmarks.study.workplace import BASE_PLANS, RECORD, Workplace, claim
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json

pytestmark = pytest.mark.slow  # with the study itself; a quick look is test_study_quick.py


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ([], FROM_SCRATCH),
        (["checkpoint_best.pth"], CONTINUE),
        (["checkpoint_best.pth", "checkpoint_latest.pth"], CONTINUE),
        (["checkpoint_best.pth", "checkpoint_final.pth"], VALIDATE),
        (["checkpoint_latest.pth", "checkpoint_final.pth"], VALIDATE),
        (["checkpoint_final.pth", "validation/case.nii.gz"], VALIDATE),
        (["checkpoint_final.pth", "validation/summary.json"], FINISHED),
    ],
)
def test_how_a_training_goes_on(tmp_path, present, expected):
    for name in present:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert how_to_go_on(tmp_path) == expected


# ---------------------------------------------------------------- the size


def test_a_folder_is_of_one_size(tmp_path, capsys):
    claim(tmp_path, Phantom(), "small")
    claim(tmp_path, Phantom(), "small")
    assert read_json(tmp_path / RECORD)["numbers"]["train"] == SIZES["small"].phantoms.train
    assert command.main(["-o", str(tmp_path), "--size", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a study of size 'small', not 'tiny'" in line


def test_numbers_of_a_size_that_changed_are_refused_and_new_ones_are_not(tmp_path):
    claim(tmp_path, Phantom(), "small")
    record = read_json(tmp_path / RECORD)
    del record["numbers"]["few"]
    write_json(record, tmp_path / RECORD)
    claim(tmp_path, Phantom(), "small")
    record["numbers"]["epochs"] = 7
    write_json(record, tmp_path / RECORD)
    with pytest.raises(MSTKDError, match=re.escape("with epochs = 7, now it is 40")):
        claim(tmp_path, Phantom(), "small")


def test_a_folder_from_before_sizes_were_written_down_gets_the_right_one(tmp_path):
    labels = tmp_path / "nnUNet_raw" / Phantom.dataset / "labelsTr"
    labels.mkdir(parents=True)
    for number in range(SIZES["small"].phantoms.train):
        (labels / f"BraTS-GLI-{number}-000.nii.gz").touch()
    with pytest.raises(MSTKDError, match="of 50 training patients, size 'tiny' has 5"):
        claim(tmp_path, Phantom(), "tiny")
    assert not (tmp_path / RECORD).exists()
    claim(tmp_path, Phantom(), "small")
    assert read_json(tmp_path / RECORD)["size"] == "small"


# ---------------------------------------------------------------- data


class FolderRecorder(Recorder):
    def __init__(self, out, data=None):
        super().__init__(out, data or Phantom())

    def leave(self, words):
        if words[1] == "phantom":
            for number in range(int(words[words.index("--cases") + 1])):
                (Path(words[words.index("-o") + 1]) / f"BraTS-GLI-{number}-000").mkdir()
        if words[1] == "convert":
            (self.raw / self.data.dataset).mkdir(exist_ok=True)
            self.splits.parent.mkdir(exist_ok=True)
            folds = [{"train": ["a", "b", "c"], "val": ["d"]}] * FEW_FOLD
            write_json(folds, self.splits)
        if words[1] == "plan":
            self.plans(BASE_PLANS).touch()


MADE = ["phantom", "phantom", "convert", "nnUNetv2_plan_and_preprocess", "plan"]


def test_data_are_made_once(tmp_path):
    work = FolderRecorder(tmp_path)
    work.data.make(work, [])
    assert work.commands == MADE
    work.data.make(work, [])
    assert work.commands == MADE
    assert len(list((tmp_path / "phantom" / "train").iterdir())) == SIZES["tiny"].phantoms.train
    assert sorted(p.name for p in (tmp_path / "phantom").iterdir()) == ["test", "train"]


def test_a_phantom_with_too_few_patients_is_made_anew(tmp_path):
    (tmp_path / "phantom" / "train" / "BraTS-GLI-0-000").mkdir(parents=True)
    work = FolderRecorder(tmp_path)
    work.data.make(work, [])
    assert work.commands == MADE
    assert len(list((tmp_path / "phantom" / "train").iterdir())) == SIZES["tiny"].phantoms.train


def test_patients_that_vanished_after_conversion_are_refused(tmp_path):
    work = FolderRecorder(tmp_path)
    work.data.make(work, [])
    (tmp_path / "phantom" / "test" / "BraTS-GLI-0-000").rmdir()
    with pytest.raises(MSTKDError, match="has 1 patients, this size has 2"):
        work.data.make(work, [])


def test_a_conversion_killed_before_its_split_is_done_again(tmp_path):
    work = FolderRecorder(tmp_path)
    work.data.make(work, [])
    work.splits.unlink()
    work.data.make(work, [])
    assert work.commands == [*MADE, "convert --overwrite"]


def test_few_labels_are_one_more_fold(tmp_path):
    work = FolderRecorder(tmp_path)
    work.data.make(work, PARTS["main"].runs("tiny", 1, ["dropout"]))
    assert len(read_json(work.splits)) == FEW_FOLD
    for _ in range(2):
        work.data.make(work, PARTS["few_labels"].runs("tiny", 1))
        folds = read_json(work.splits)
        assert folds[FEW_FOLD] == {"train": ["a", "b"], "val": ["d"]}
        assert len(folds) == FEW_FOLD + 1
    with pytest.raises(MSTKDError, match="is not that of few labels"):
        add_few_labels(work.splits, 1)


# ---------------------------------------------------------------- patients


@pytest.fixture
def patients(tmp_path):
    """A folder with five patients, one of them with two time points."""
    folder = tmp_path / "patients"
    for name in (*(f"BraTS-GLI-0000{n}-000" for n in range(5)), "BraTS-GLI-00004-001"):
        (folder / name).mkdir(parents=True)
        for ending in ("t1n", "t1c", "t2w", "t2f", "seg"):
            (folder / name / f"{name}-{ending}.nii.gz").touch()
    return folder


def test_a_folder_of_patients_is_of_the_same_patients_and_folds(tmp_path, patients):
    out = tmp_path / "out"
    claim(out, Patients(patients, "brats2023", "2d", 2), "tiny")
    claim(out, Patients(patients, "brats2023", "2d", 2), "tiny")
    with pytest.raises(MSTKDError, match="holds a study with folds 2, not 3; choose another -o"):
        claim(out, Patients(patients, "brats2023", "2d", 3), "tiny")
    with pytest.raises(MSTKDError, match="configuration '2d', not '3d_fullres'"):
        claim(out, Patients(patients, "brats2023", "3d_fullres", 2), "tiny")
    with pytest.raises(MSTKDError, match="kind 'patients', not 'phantom'"):
        claim(out, Phantom(), "tiny")
    shutil.rmtree(patients / "BraTS-GLI-00000-000")
    with pytest.raises(MSTKDError, match="patients of 5 names, not of 4 names"):
        claim(out, Patients(patients, "brats2023", "2d", 2), "tiny")


@pytest.mark.parametrize("folds", [1, 6])
def test_there_are_as_many_folds_as_patients_at_most(patients, folds):
    with pytest.raises(MSTKDError, match=f"--folds {folds}: choose 2 to 5, the number of patients"):
        Patients(patients, "brats2023", "2d", folds)


def test_patients_need_a_format(tmp_path, patients, capsys):
    assert command.main(["-o", str(tmp_path / "out"), "--data", str(patients)]) == 2
    assert "needs --format; choose from brats2020" in capsys.readouterr().err


def test_few_labels_are_a_question_to_the_phantom(tmp_path, patients):
    data = Patients(patients, "brats2023", "2d", 2)
    few = PARTS["few_labels"].runs("tiny", 1, folds=2)
    with pytest.raises(MSTKDError, match="few_labels is a part of the phantom's study"):
        data.make(Workplace(tmp_path / "out", data, "tiny", "cpu", 1), few)


def test_the_default_parts_of_patients_are_without_it(tmp_path, patients, capsys):
    flags = ["--data", str(patients), "--format", "brats2023", "--folds", "2", "--size", "tiny", "--list"]
    assert command.main(["-o", str(tmp_path / "out"), *flags]) == 0
    parts = {line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if " epochs, " in line}
    assert parts == {"main", "short"}


def test_patients_without_a_sequence_are_refused(patients):
    (patients / "BraTS-GLI-00002-000" / "BraTS-GLI-00002-000-t1c.nii.gz").unlink()
    with pytest.raises(MSTKDError, match=r"1 case\(s\) of .* lack a sequence \(first: BraTS-GLI-00002-000\)"):
        Patients(patients, "brats2023", "2d", 2)


def test_a_comma_in_the_folder_is_refused_at_once(tmp_path):
    with pytest.raises(MSTKDError, match="has a comma, which separates runs"):
        Workplace(tmp_path / "a,b", Phantom(), "tiny", "cpu", 1)
    assert not (tmp_path / "a,b").exists()


def test_every_fold_of_every_round_has_a_seed_and_plans_of_its_own():
    runs = [run for part in ("main", "half") for run in PARTS[part].runs("small", 3, ["warm_start"], folds=3)]
    assert [run.seed for run in runs if not run.condition.name] == list(range(9))
    assert [run.fold for run in runs if not run.condition.name] == [0, 1, 2] * 3
    assert len({run.plans for run in runs}) == len(runs) == 18


def test_a_round_with_a_missing_fold_is_left_out_and_said(tmp_path, patients, capsys, monkeypatch):
    data, compared = Patients(patients, "brats2023", "2d", 2), {}
    study = Study(Workplace(tmp_path / "out", data, "tiny", "cpu", 1), data)
    monkeypatch.setattr(Study, "is_finished", lambda _, run: run.seed != 3)
    monkeypatch.setattr(Study, "_compare", lambda _, comparison, of_arms: compared.update(of_arms))
    study.compare(PARTS["challengers"], 2)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith(f"left out: round 2 of {ARMS[BAR].title}"))
    assert line == "left out: round 2 of modality dropout after a full phase; 1 of 2 folds are missing"
    assert [len(folders) for folders in compared[BAR]] == [2]


# ---------------------------------------------------------------- evaluations, logs


def test_an_evaluation_is_whole_with_every_row(tmp_path):
    assert not _is_whole(tmp_path)
    record = {"cases": {"a": {}, "b": {}}, "subsets": ["t1c"], "regions": {"WT": [1], "ET": [3]}}
    write_json(record, tmp_path / "evaluation.json")
    rows = ["case,subset,region", "a,t1c,WT", "a,t1c,ET", "b,t1c,WT"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert not _is_whole(tmp_path)
    (tmp_path / "metrics.csv").write_text("\n".join([*rows, "b,t1c,ET"]) + "\n")
    assert _is_whole(tmp_path)


def test_a_comparison_without_its_reference_is_said_to_be_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Study, "is_finished", lambda _, run: run.arm.key == "kl_x4")
    data = Phantom()
    Study(Workplace(tmp_path, data, "tiny", "cpu", 1), data).compare(PARTS["diagnosis"], 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "not compared: comparison_diagnosis; its reference, modality dropout after a full phase, has no"
        " finished run"
    )


def test_epoch_times_are_read_by_phase_and_a_repeated_epoch_counts_once(tmp_path):
    def log(name, *epochs):
        lines = []
        for number, phase, seconds in epochs:
            lines += [f"2026: Epoch {number}", f"2026: Phase: {phase}, epoch 1 of 2" if phase else "2026: x"]
            lines += [f"2026: Epoch time: {seconds} s"]
        (tmp_path / f"training_log_{name}.txt").write_text("\n".join(lines))

    log("1", (0, FULL, 2.5), (1, FULL, 2.0), (2, MASKED, 9.0))
    log("2", (2, MASKED, 3.0), (3, None, 4.0))
    assert epoch_times(tmp_path) == [
        EpochTime(FULL, 2.5),
        EpochTime(FULL, 2.0),
        EpochTime(MASKED, 3.0),
        EpochTime(MASKED, 4.0),
    ]


def test_arms_that_no_chosen_part_has_are_refused(tmp_path, capsys):
    assert command.main(["-o", str(tmp_path / "none"), "--arms", "kl_x4"]) == 2
    assert "parts main few_labels short have none of these arms" in capsys.readouterr().err
