"""A few labelled patients: who they are, what is made of them and the others, and who makes pseudo-labels."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from small_cases import read_array
from study_recorder import Recorder

from benchmarks.study import __main__ as command
from benchmarks.study.arms import BAR, FEW, PSEUDO
from benchmarks.study.parts import PARTS
from benchmarks.study.patients import Patients
from benchmarks.study.resume import FINISHED, how_to_go_on
from benchmarks.study.runs import Run
from benchmarks.study.study import Study, run_parts
from benchmarks.study.unlabelled import FEW_BAR, PSEUDO_LABELS, UNLABELLED, teacher_of
from benchmarks.study.workplace import BASE_PLANS, Workplace
from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
TWO_TIMES = ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001")
CASES = (*(f"BraTS-GLI-0000{n}-000" for n in range(5)), *TWO_TIMES)
HELD_OUT = {0: CASES[0], 1: CASES[1]}
FEW_ARM, PSEUDO_ARM = UNLABELLED[FEW_BAR], UNLABELLED[PSEUDO_LABELS]


class FewRecorder(Recorder):
    def leave(self, words):
        after = dict(pairwise(words))
        if words[1] == "convert":
            dataset = f"Dataset{int(after['-d']):03d}_{after['--name']}"
            others = Path(after["--unlabelled"]).iterdir() if "--unlabelled" in after else ()
            unlabelled = sorted(path.name for path in others)
            write_dataset(self, dataset, unlabelled)
        if words[1] == "predict":
            Path(after["-o"]).mkdir()
            for case in Path(after["-i"]).iterdir():
                (Path(after["-o"]) / f"{case.name}.nii.gz").write_text("predicted")


def write_dataset(work, dataset, unlabelled=()):
    """What ``convert`` leaves: every case's patient, and a split that nobody wants here."""
    (work.raw / dataset).mkdir(exist_ok=True)
    patients = {case: case.rpartition("-")[0] for case in CASES}
    content = {"file_ending": ".nii.gz", "mstkd": {"patients": patients, "unlabelled": list(unlabelled)}}
    write_json(content, work.raw / dataset / "dataset.json")
    work.splits_of(dataset).parent.mkdir(exist_ok=True)
    write_json([{"train": ["x"], "val": ["y"]}] * 2, work.splits_of(dataset))


@pytest.fixture
def study(tmp_path):
    """A study of six patients in two folds, as it is when their data set is whole; two are labelled."""
    folder = tmp_path / "patients"
    for name in CASES:
        (folder / name).mkdir(parents=True)
        for ending in (*SEQUENCES, "seg"):
            (folder / name / f"{name}-{ending}.nii.gz").write_text("true")
    data = Patients(folder, "brats2023", "2d", 2)
    study = Study(FewRecorder(tmp_path / "out", data), data, labelled=2)
    write_dataset(study.work, data.dataset)
    folds = [{"train": [c for c in CASES if c != val], "val": [val]} for val in HELD_OUT.values()]
    write_json(folds, study.work.splits)
    write_json({}, study.work.splits.with_name("dataset_fingerprint.json"))
    write_json({"dataset_name": data.dataset, "network": "ours"}, study.work.plans(BASE_PLANS))
    return study


# ---------------------------------------------------------------- who is labelled


def test_patients_are_drawn_by_the_seed_from_those_of_the_fold(study):
    drawn = {seed: study.few.drawn(Run(FEW_ARM, seed, fold=seed % 2)) for seed in range(12)}
    for seed, draw in drawn.items():
        assert draw == study.few.drawn(Run(PSEUDO_ARM, seed, fold=seed % 2))
        assert draw.validated == (HELD_OUT[seed % 2],)
        assert {*draw.labelled, *draw.others} == set(CASES) - {HELD_OUT[seed % 2]}
        assert not set(draw.labelled) & set(draw.others)
        assert len({case.rpartition("-")[0] for case in draw.labelled}) == 2
        assert len(set(TWO_TIMES) & set(draw.labelled)) in (0, 2), "a patient is labelled or is not"
    assert len({draw.labelled for draw in drawn.values()}) > 4


@pytest.mark.parametrize("number", [0, 5])
def test_some_are_labelled_and_some_are_not(study, number):
    study.few.labelled = number
    with pytest.raises(MSTKDError, match=f"--labelled {number}: fold 0 trains on 5 patients; choose 1 to 4"):
        study.few.make([Run(FEW_ARM, 0)])
    assert not (study.work.out / "few").exists()


def test_a_folder_has_one_number_of_labelled_patients(study):
    study.few.make([Run(FEW_ARM, 0)])
    study.few.labelled = 3
    with pytest.raises(MSTKDError, match=re.escape("with 2 labelled patients, not 3; choose another -o, or")):
        study.few.make([Run(FEW_ARM, 0)])
    Workplace(study.work.out, study.data, "tiny", "cpu", 1)  # the record is still that of this study


# ---------------------------------------------------------------- data sets

MADE = ["convert", "nnUNetv2_preprocess"]


def test_parts_with_every_label_make_nothing_more(study):
    study.few.make(PARTS["main"].runs("tiny", 1, folds=2))
    assert study.work.commands == []
    assert "labelled" not in read_json(study.work.out / "study.json")


def test_the_few_and_the_others_are_made_once_for_a_seed(study):
    runs = PARTS["unlabelled"].runs("tiny", 1, folds=2)
    for _ in range(2):
        study.few.make(runs)
        assert study.work.commands == MADE * 2
    run = next(run for run in runs if run.arm == FEW_ARM and run.seed == 1)
    dataset, draw = study.few.dataset(run), study.few.drawn(run)
    split = {"train": list(draw.labelled), "val": [HELD_OUT[1]]}
    assert read_json(study.work.splits_of(dataset))[run.fold] == split
    # The network of all patients' plans; the bar with every label trains where it always did.
    assert read_json(study.work.plans(BASE_PLANS, dataset)) == {"dataset_name": dataset, "network": "ours"}
    assert study.few.dataset(Run(PARTS["main"].runs("tiny", 1, [BAR])[0].arm, 1)) == study.data.dataset
    assert study.model(run).parent.name == dataset


def test_others_have_no_segmentation_anywhere(study):
    study.few.make([Run(FEW_ARM, 0)])
    study.few.make_pseudo(Run(PSEUDO_ARM, 0), Path("model"))
    draw = study.few.drawn(Run(FEW_ARM, 0))
    place = study.work.out / "few"
    without = {path.name: sorted(file.name for file in path.iterdir())
               for path in (place / "seed_0" / "unlabelled").iterdir()}  # fmt: skip
    assert without == {n: sorted(f"{n}-{s}.nii.gz" for s in SEQUENCES) for n in draw.others}
    for name in (*draw.labelled, *draw.validated, *draw.others):
        written = (place / "seed_0_pseudo" / name / f"{name}-seg.nii.gz").read_text()
        assert written == ("predicted" if name in draw.others else "true")
    assert {path.name for path in (place / "seed_0_pseudo").iterdir()} == set(CASES)


def test_a_data_set_is_whole_with_its_split(study):
    run = Run(FEW_ARM, 0)
    study.few.make([run])
    splits = study.work.splits_of(study.few.dataset(run))
    wanted = read_json(splits)
    write_dataset(study.work, study.few.dataset(run), study.few.drawn(run).others)  # killed after convert
    study.few.make([run])
    assert study.work.commands == [*MADE, "nnUNetv2_preprocess"]
    splits.unlink()  # killed within convert
    study.few.make([run])
    assert study.work.commands == [*MADE, "nnUNetv2_preprocess", "convert --overwrite", "nnUNetv2_preprocess"]
    assert read_json(splits) == wanted


def test_pseudo_labels_are_of_the_cases_that_distillation_takes(study):
    run = Run(PSEUDO_ARM, 0)
    study.few.make([run])
    draw, few = study.few.drawn(run), study.few.dataset(replace(run, arm=FEW_ARM))
    described = study.work.raw / few / "dataset.json"
    content = read_json(described)
    content["mstkd"]["unlabelled"] = complete = sorted(draw.others)[:1]  # the rest lacked a sequence
    write_json(content, described)
    for _ in range(2):
        study.few.make_pseudo(run, Path("model"))
        assert study.work.commands == [*MADE, "predict", *MADE]
    split = read_json(study.work.splits_of(study.few.dataset(run)))[0]
    assert split == {"train": [*draw.labelled, *complete], "val": [HELD_OUT[0]]}


# ---------------------------------------------------------------- the teacher of pseudo-labels


def test_the_bar_on_the_few_makes_the_pseudo_labels():
    run = Run(PSEUDO_ARM, 4, fold=1, repeat=2)
    assert teacher_of(run) == Run(FEW_ARM, 4, fold=1, repeat=2)
    assert [arm.key for arm in UNLABELLED.values() if teacher_of(Run(arm, 0))] == [PSEUDO_LABELS]
    assert {arm.cases for arm in UNLABELLED.values()} == {FEW, PSEUDO}


def test_asking_for_pseudo_labels_asks_for_their_teacher(tmp_path, capsys):
    arguments = ["-o", str(tmp_path / "none"), "--list", "--seeds", "1", "--parts", "unlabelled"]
    assert command.main([*arguments, "--arms", PSEUDO_LABELS]) == 0
    listed = capsys.readouterr().out
    assert "2 runs, 1600 student steps" in listed
    assert "and beside it its teacher's (the bar, few labelled): 800" in listed


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_teacher_is_trained_before_its_student_and_once(study, monkeypatch, jobs):
    done = []
    study.work.jobs = jobs
    monkeypatch.setattr(Study, "is_finished", lambda _, run: run in done)
    monkeypatch.setattr(Study, "train_and_evaluate", lambda _, run: done.append(run))
    monkeypatch.setattr(study.few, "make_pseudo", lambda run, model: done.append(model.name))
    student = Run(PSEUDO_ARM, 0)
    teacher = teacher_of(student)
    study.train_all([student, teacher])
    assert done == [teacher, study.model(teacher).name, student]
    study.train_all([student])
    assert len(done) == 3


# ---------------------------------------------------------------- the real thing


class WithoutEvaluation(Workplace):
    """Leaves away what costs most and makes no difference to the next step."""

    def run(self, log, line, **environment):
        if line.split()[1] != "evaluate":
            super().run(log, line, **environment)


@pytest.mark.slow
def test_the_bar_trains_again_on_its_own_pseudo_labels(tmp_path):
    folder, out = tmp_path / "patients", tmp_path / "study"
    assert main(["phantom", "-o", str(folder), "--cases", "4", "--shape", "24", "24", "24"]) == 0
    work = WithoutEvaluation(out, Patients(folder, "brats2023", "2d", 2), "tiny", "cpu", 1)
    study = Study(work, work.data, labelled=1)
    student = Run(PSEUDO_ARM, 0)
    run_parts(study, [], [student], 1)

    teacher = teacher_of(student)
    for run in (teacher, student):
        assert how_to_go_on(study.model(run) / "fold_0") is FINISHED
    log = "".join(path.read_text() for path in study.model(teacher).glob("fold_0/training_log*"))
    assert "Cases without a segmentation: 0 train the distillation; 1 are left out" in log
    draw = study.few.drawn(student)
    assert not {path.name for path in study.data.held_out(study.work, 0).iterdir()} & {
        *draw.labelled,
        *draw.others,
    }
    for name in (*draw.labelled, *draw.others):
        learnt = read_array(study.work.raw / study.few.dataset(student) / "labelsTr" / f"{name}.nii.gz")
        true = read_array(folder / name / f"{name}-seg.nii.gz")
        assert (learnt == true).all() == (name in draw.labelled)
        if name in draw.others:
            assert (learnt == read_array(out / "few" / "seed_0_predicted" / f"{name}.nii.gz")).all()
