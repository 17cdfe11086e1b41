"""A later call into the same folder: what it keeps, what it refuses, what it says of itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from evaluated_model import CASES, INCOMPLETE, model_flags, refused
from tiny_model import SHAPE, volume, write_volume

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import read_evaluation
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor

CASE = CASES[0]


@pytest.fixture
def again(whole, folder, models, tmp_path, evaluate):
    """Copies of an evaluation and of its cases, to be changed, and the command that made it."""
    shutil.copytree(whole, tmp_path / "out")
    shutil.copytree(folder, tmp_path / "in")

    def run(*flags):
        return evaluate(tmp_path / "out", *model_flags(models.regions, tmp_path / "in"), *flags)

    return run


def change_record(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_same_files_elsewhere_are_the_same(again, tmp_path, whole):
    done = again()
    assert done.code == 0
    assert "33 of 33 scores (cases by subsets); 12 are not possible: their cases lack modalities" in done.out
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_another_reference_is_refused_until_its_scores_are_removed(again, tmp_path, whole):
    labels = np.random.default_rng(99).integers(0, 4, SHAPE).astype(np.uint8)
    write_volume(tmp_path / "in" / CASE / f"{CASE}-seg.nii.gz", labels)
    refused(again(), says=f"the reference of case {CASE} is not what was scored in")
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    (tmp_path / "out" / "cases" / f"{CASE}.json").unlink()
    assert again().code == 0
    before, after = (read_evaluation(f).metrics.set_index("case") for f in (whole, tmp_path / "out"))
    assert not before.loc[CASE].tp.equals(after.loc[CASE].tp)
    assert before.loc[CASES[1]].tp.equals(after.loc[CASES[1]].tp)


def test_another_image_is_refused(again, tmp_path):
    write_volume(tmp_path / "in" / CASE / f"{CASE}-t1c.nii.gz", volume(77))
    refused(again(), says=f"the image of t1c of case {CASE} is not what was scored")


def test_another_image_than_an_unscored_segmentation_was_made_of_is_refused(again, tmp_path):
    """What a killed run segmented and did not score would pass for a segmentation of the new image."""
    (tmp_path / "out" / "cases" / f"{CASE}.json").unlink()
    write_volume(tmp_path / "in" / CASE / f"{CASE}-t1c.nii.gz", volume(77))
    refused(again(), says=f"the image of t1c of case {CASE} is not what was segmented")
    for path in (tmp_path / "out" / "predictions").glob(f"*/{CASE}.nii.gz"):
        path.unlink()
    assert again().code == 0


def test_an_image_that_leads_nowhere_costs_its_case(again, tmp_path):
    shutil.rmtree(tmp_path / "out")
    broken = tmp_path / "in" / CASE / f"{CASE}-t1c.nii.gz"
    broken.unlink()
    broken.symlink_to(tmp_path / "moved.nii.gz")
    done = again("--subsets", "t2f")
    assert done.code == 2
    assert f"{CASE}: cannot read {broken} (No such file or directory); if it is a link" in done.err
    assert "2 of 2 scores" in done.out


def test_an_image_that_has_come_is_refused(again, tmp_path):
    """The case's subsets with it are stored as impossible."""
    write_volume(tmp_path / "in" / INCOMPLETE / f"{INCOMPLETE}-t1n.nii.gz", volume(5))
    refused(again(), says=f"the image of t1n of case {INCOMPLETE} is not what was scored")


def test_another_reading_of_the_labels_is_refused(again, tmp_path):
    def change(record):
        record["cases"][CASE]["label_map"] = {"0": 0, "1": 1, "2": 2, "4": 3}

    change_record(tmp_path / "out" / "evaluation.json", change)
    refused(again(), says=f"the reading of the label values of case {CASE}")


def test_another_ignore_label_is_refused(again, tmp_path):
    change_record(tmp_path / "out" / "evaluation.json", lambda record: record.update(ignore=4))
    refused(again(), says="holds an evaluation with other ignore;")


def test_what_earlier_calls_scored_stays_in_the_tables(again, tmp_path, whole):
    shutil.rmtree(tmp_path / "out")
    assert again("--subsets", "t1c").code == 0
    shutil.rmtree(tmp_path / "in" / CASES[1])
    done = again("--subsets", "t2f", "t1c+t2f")
    assert done.code == 0
    assert "7 of 7 scores" in done.out
    evaluation = read_evaluation(tmp_path / "out")
    assert evaluation.record.subsets == ("t1c", "t2f", "t1c+t2f")
    assert evaluation.record.cases[CASES[1]].subsets == ("t1c",)
    assert evaluation.record.cases[CASE].subsets is None
    mine = evaluation.metrics.set_index(["case", "subset", "region"])
    expected = read_evaluation(whole).metrics.set_index(["case", "subset", "region"])
    assert len(mine) == 7 * 3
    assert mine.tp.equals(expected.tp.loc[mine.index])
    assert [command.split("--subsets ")[1] for command in evaluation.record.commands] == [
        "t1c",
        "t2f t1c+t2f",
    ]


def test_a_case_that_never_had_a_score_is_forgotten(again, tmp_path):
    shutil.rmtree(tmp_path / "out")
    broken = tmp_path / "in" / CASE / f"{CASE}-t2f.nii.gz"
    broken.write_bytes(broken.read_bytes()[:400])
    assert again("--subsets", "t2f").code == 2
    assert CASE in read_evaluation(tmp_path / "out").record.cases
    shutil.rmtree(tmp_path / "in" / CASE)
    done = again("--subsets", "t2f")
    assert done.code == 0
    assert "2 of 2 scores" in done.out
    assert set(read_evaluation(tmp_path / "out").record.cases) == {CASES[1], INCOMPLETE}


def test_a_call_that_failed_takes_no_credit(again, tmp_path, monkeypatch):
    path = tmp_path / "out" / "cases" / f"{CASE}.json"
    change_record(path, lambda content: content["subsets"].pop("t1c"))
    (tmp_path / "out" / "predictions" / "t1c" / f"{CASE}.nii.gz").unlink()

    def load(*arguments, **options):
        raise MSTKDError("no memory")

    monkeypatch.setattr(MissingModalityPredictor, "load", load)
    refused(again(), says="no memory")
    assert [session.scored for session in read_evaluation(tmp_path / "out").record.sessions] == [33]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("-device", "cuda"), "device 'cuda' is not available here"),
        pytest.param(
            ("--executor", "dask://127.0.0.1:9"), "no Dask scheduler answers", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_work_leaves_no_folder(again, tmp_path, flags, says):
    if "--executor" in flags:
        pytest.importorskip("distributed")
    shutil.rmtree(tmp_path / "out")
    refused(again(*flags), says=says)
    assert not (tmp_path / "out").exists()


def test_a_reference_in_other_label_values_costs_its_case(again, tmp_path):
    shutil.rmtree(tmp_path / "out")
    path = tmp_path / "in" / CASE / f"{CASE}-seg.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.ChangeLabel(image, {3.0: 4.0}), str(path))
    refused(again("--subsets", "t1c"), says=f"{CASE}-seg.nii.gz has the label 4; the data set")
    assert set(read_evaluation(tmp_path / "out").metrics.case) == {CASES[1], INCOMPLETE}
