"""What the study makes of a folder that was left in the middle, or belongs to another study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.study import __main__ as command
from benchmarks.study.data import add_few_labels, make_data
from benchmarks.study.parts import FEW_FOLD, PARTS
from benchmarks.study.resume import CONTINUE, FINISHED, FROM_SCRATCH, VALIDATE, how_to_go_on
from benchmarks.study.sizes import SIZES
from benchmarks.study.study import Study, _is_whole
from benchmarks.study.timing import FULL, MASKED, EpochTime, epoch_times
from benchmarks.study.workplace import BASE_PLANS, DATASET, RECORD, Workplace, claim
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
    claim(tmp_path, "small")
    claim(tmp_path, "small")
    assert read_json(tmp_path / RECORD)["numbers"]["train"] == SIZES["small"].train
    assert command.main(["-o", str(tmp_path), "--size", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a study of size 'small', not 'tiny'" in line


def test_numbers_of_a_size_that_changed_are_refused_and_new_ones_are_not(tmp_path):
    claim(tmp_path, "small")
    record = read_json(tmp_path / RECORD)
    del record["numbers"]["few"]
    write_json(record, tmp_path / RECORD)
    claim(tmp_path, "small")
    record["numbers"]["epochs"] = 7
    write_json(record, tmp_path / RECORD)
    with pytest.raises(MSTKDError, match=re.escape("with epochs = 7, now it is 40")):
        claim(tmp_path, "small")


def test_a_folder_from_before_sizes_were_written_down_gets_the_right_one(tmp_path):
    labels = tmp_path / "nnUNet_raw" / DATASET / "labelsTr"
    labels.mkdir(parents=True)
    for number in range(SIZES["small"].train):
        (labels / f"BraTS-GLI-{number}-000.nii.gz").touch()
    with pytest.raises(MSTKDError, match="of 50 training patients, size 'tiny' has 5"):
        claim(tmp_path, "tiny")
    assert not (tmp_path / RECORD).exists()
    claim(tmp_path, "small")
    assert read_json(tmp_path / RECORD)["size"] == "small"


# ---------------------------------------------------------------- data


class Recorder(Workplace):
    """Does by hand what the commands would do, as far as the next step looks."""

    def __init__(self, out):
        super().__init__(out, "tiny", "cpu", 1)
        self.commands = []

    def run(self, log, command, **environment):
        words = command.split()
        self.commands.append(words[1] if words[0] == "nnUNetv2_mstkd" else words[0])
        if "--overwrite" in words:
            self.commands[-1] += " --overwrite"
        if words[1] == "phantom":
            for number in range(int(words[words.index("--cases") + 1])):
                (Path(words[words.index("-o") + 1]) / f"BraTS-GLI-{number}-000").mkdir()
        if words[1] == "convert":
            (self.raw / DATASET).mkdir(exist_ok=True)
            self.splits.parent.mkdir(exist_ok=True)
            folds = [{"train": ["a", "b", "c"], "val": ["d"]}] * FEW_FOLD
            write_json(folds, self.splits)
        if words[1] == "plan":
            self.plans(BASE_PLANS).touch()


MADE = ["phantom", "phantom", "convert", "nnUNetv2_plan_and_preprocess", "plan"]


def test_data_are_made_once(tmp_path):
    work = Recorder(tmp_path)
    make_data(work, [])
    assert work.commands == MADE
    make_data(work, [])
    assert work.commands == MADE
    assert len(list((tmp_path / "phantom" / "train").iterdir())) == SIZES["tiny"].train
    assert sorted(p.name for p in (tmp_path / "phantom").iterdir()) == ["test", "train"]


def test_a_phantom_with_too_few_patients_is_made_anew(tmp_path):
    (tmp_path / "phantom" / "train" / "BraTS-GLI-0-000").mkdir(parents=True)
    work = Recorder(tmp_path)
    make_data(work, [])
    assert work.commands == MADE
    assert len(list((tmp_path / "phantom" / "train").iterdir())) == SIZES["tiny"].train


def test_patients_that_vanished_after_conversion_are_refused(tmp_path):
    work = Recorder(tmp_path)
    make_data(work, [])
    (tmp_path / "phantom" / "test" / "BraTS-GLI-0-000").rmdir()
    with pytest.raises(MSTKDError, match="has 1 patients, this size has 2"):
        make_data(work, [])


def test_a_conversion_killed_before_its_split_is_done_again(tmp_path):
    work = Recorder(tmp_path)
    make_data(work, [])
    work.splits.unlink()
    make_data(work, [])
    assert work.commands == [*MADE, "convert --overwrite"]


def test_few_labels_are_one_more_fold(tmp_path):
    work = Recorder(tmp_path)
    make_data(work, PARTS["main"].runs("tiny", 1, ["dropout"]))
    assert len(read_json(work.splits)) == FEW_FOLD
    for _ in range(2):
        make_data(work, PARTS["few_labels"].runs("tiny", 1))
        folds = read_json(work.splits)
        assert folds[FEW_FOLD] == {"train": ["a", "b"], "val": ["d"]}
        assert len(folds) == FEW_FOLD + 1
    with pytest.raises(MSTKDError, match="is not that of few labels"):
        add_few_labels(work.splits, 1)


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
    Study(Workplace(tmp_path, "tiny", "cpu", 1)).compare(PARTS["diagnosis"], 3)
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
