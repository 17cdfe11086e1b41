"""Folders of finished segmentations: which are taken, and how their values and grids are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from evaluated_model import CASES, refused

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.evaluation.record.record import read_evaluation

KEY = ["case", "subset", "region"]


@pytest.fixture
def labels(folder, tmp_path) -> Path:
    (tmp_path / "labels").mkdir()
    for case in CASES:
        shutil.copyfile(folder / case / f"{case}-seg.nii.gz", tmp_path / "labels" / f"{case}.nii.gz")
    return tmp_path / "labels"


@pytest.fixture
def score(labels, tmp_path, evaluate):
    def run(predictions, *flags, output="out"):
        given = ("--predictions", predictions, "--labels", labels, "--disable_progress_bar", *flags)
        return evaluate(tmp_path / output, *given)

    return run


@pytest.fixture
def theirs(whole, tmp_path):
    """``theirs("t1c", "a/t1c", CASES)`` copies segmentations under a subset into a folder."""

    def copy(subset: str, place: str, cases=CASES, *, described: bool = True) -> Path:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        names = [f"{case}.nii.gz" for case in cases] + (["dataset.json"] if described else [])
        for name in names:
            shutil.copyfile(whole / "predictions" / subset / name, tmp_path / place / name)
        return tmp_path / place

    return copy


def expected_rows(whole: Path, *wanted: tuple[str, str]) -> pd.DataFrame:
    table = read_evaluation(whole).metrics
    return table[[row in wanted for row in zip(table.case, table.subset, strict=True)]]


def same(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    one, other = (t.drop(columns="model").sort_values(KEY, ignore_index=True) for t in (table, expected))
    pd.testing.assert_frame_equal(one, other)


def test_a_folder_in_which_each_case_has_its_own_subset(theirs, score, tmp_path, whole, capsys):
    """As ``predict`` leaves a cohort of incomplete cases: scored, complete, and fit to be compared."""
    place = theirs("t1c", "mixed", CASES[:1])
    theirs("t1n+t1c", "mixed", CASES[1:])
    records = {CASES[0]: {"used": ["t1c"], "absent": ["t1n", "t2w", "t2f"]}}
    records |= {CASES[1]: {"used": ["t1n", "t1c"], "absent": ["t2w"], "ignored": ["t2f"]}}
    (place / "modalities.json").write_text(json.dumps(records))
    for output in ("a", "b"):
        done = score(place, output=output)
        assert done.code == 0, done.err
        assert "2 of 2 scores" in done.out
    same(
        read_evaluation(tmp_path / "a").metrics,
        expected_rows(whole, (CASES[0], "t1c"), (CASES[1], "t1n+t1c")),
    )
    runs = [str(tmp_path / name) for name in "ab"]
    flags = ["--names", "a", "b", "--resamples", "200"]
    assert main(["compare", *runs, "-o", str(tmp_path / "comparison"), *flags]) == 0
    differences = pd.read_csv(tmp_path / "comparison" / "differences.csv")
    assert set(differences[differences.subset == "t1c"].patients) == {1}
    # Another run with the same subsets in all, but other ones for each case.
    records[CASES[0]], records[CASES[1]] = records[CASES[1]], records[CASES[0]]
    (place / "modalities.json").write_text(json.dumps(records))
    assert score(place, output="c").code == 0
    capsys.readouterr()
    runs = [str(tmp_path / name) for name in "ac"]
    assert main(["compare", *runs, "-o", str(tmp_path / "none"), *flags]) == 2
    assert f"different subsets of case {CASES[0]}" in capsys.readouterr().err


def test_segmentations_in_the_values_of_the_source(theirs, score, tmp_path, whole):
    """``predict --source_labels`` leaves ET as 4 and says so in modalities.json."""
    place = theirs("t1c", "source")
    records = {case: {"used": ["t1c"], "source_labels": True} for case in CASES}
    for case in CASES:
        path = str(place / f"{case}.nii.gz")
        sitk.WriteImage(sitk.ChangeLabel(sitk.ReadImage(path), {3.0: 4.0}), path)
    (place / "modalities.json").write_text(json.dumps(records))
    dataset = json.loads((place / "dataset.json").read_text())
    known = dataset.pop("mstkd", {})
    (place / "dataset.json").write_text(json.dumps(dataset))
    refused(score(place), says="dataset.json has no mstkd.source_labels")
    dataset["mstkd"] = known | {"source_labels": {"1": 1, "2": 2, "3": 4}}
    (place / "dataset.json").write_text(json.dumps(dataset))
    done = score(place)
    assert done.code == 0, done.err
    same(read_evaluation(tmp_path / "out").metrics, expected_rows(whole, *((case, "t1c") for case in CASES)))
    assert read_evaluation(tmp_path / "out").record.prediction_label_map == {0: 0, 1: 1, 2: 2, 4: 3}
    del records[CASES[0]]["source_labels"]
    (place / "modalities.json").write_text(json.dumps(records))
    refused(score(place, output="other"), says="predict all with --source_labels, or none")


def test_foreign_values_and_grids_cost_their_case(theirs, score, tmp_path):
    place = theirs("t1c", "foreign")
    first, second = (str(place / f"{case}.nii.gz") for case in CASES)
    image = sitk.ReadImage(first)
    sitk.WriteImage(sitk.ChangeLabel(image, {3.0: 4.0}), first)
    moved = sitk.ReadImage(second)
    moved.SetOrigin((9, 9, 9))
    sitk.WriteImage(moved, second)
    done = score(place, "--subsets", "t1c")
    assert done.code == 2
    assert f"{first} has the label 4; the data set has 0, 1, 2, 3" in done.err
    assert f"{second} and {tmp_path / 'labels'}/{CASES[1]}.nii.gz differ in origin" in done.err
    assert read_evaluation(tmp_path / "out").metrics.empty


def test_the_references_spacing_counts(theirs, score, labels, tmp_path, whole):
    """Headers may differ in the last digits, as files of one case often do."""
    place = theirs("t1c", "near")
    for case in CASES:
        image = sitk.ReadImage(str(place / f"{case}.nii.gz"))
        image.SetSpacing([length + 4e-4 for length in image.GetSpacing()])
        sitk.WriteImage(image, str(place / f"{case}.nii.gz"))
    assert score(place, "--subsets", "t1c").code == 0
    same(read_evaluation(tmp_path / "out").metrics, expected_rows(whole, *((case, "t1c") for case in CASES)))


def test_one_dataset_json_is_enough_for_a_folder_per_subset(theirs, score, tmp_path, whole):
    for subset in ("t1c", "t2f"):
        theirs(subset, f"in/{subset}", described=False)
    shutil.copyfile(whole / "predictions" / "t1c" / "dataset.json", tmp_path / "in" / "dataset.json")
    (tmp_path / "in" / "logs").mkdir()
    (tmp_path / "in" / "logs" / "log.txt").touch()
    done = score(tmp_path / "in")
    assert done.code == 0, done.err
    pairs = [(case, subset) for case in CASES for subset in ("t1c", "t2f")]
    same(read_evaluation(tmp_path / "out").metrics, expected_rows(whole, *pairs))


def test_two_folders_that_mean_one_subset_are_refused(theirs, score, tmp_path):
    theirs("t2f", "two/t2f")
    theirs("t1c", "two/flair")
    refused(score(tmp_path / "two"), says="t2f mean the same subset")


def test_no_segmentation_is_skipped_silently(theirs, score, tmp_path):
    theirs("t1c", "in/t1c")
    theirs("t1c", "in/backup", described=False)
    refused(score(tmp_path / "in"), says="unknown modality 'backup'")
    theirs("t1c", "both")
    theirs("t1c", "both/t1c")
    refused(score(tmp_path / "both", "--subsets", "t1c"), says="holds segmentations and t1c/ with more")


def test_more_cases_may_come_but_none_may_change(theirs, score, tmp_path, whole):
    place = theirs("t1c", "in/t1c", CASES[:1])
    assert score(place.parent).code == 0
    theirs("t1c", "in/t1c")
    theirs("t2f", "in/t2f", CASES[:1])
    done = score(place.parent)
    assert done.code == 0, done.err
    assert [session.scored for session in read_evaluation(tmp_path / "out").record.sessions] == [1, 2]
    pairs = [(CASES[0], "t1c"), (CASES[1], "t1c"), (CASES[0], "t2f")]
    same(read_evaluation(tmp_path / "out").metrics, expected_rows(whole, *pairs))
    path = str(place / f"{CASES[1]}.nii.gz")
    image = sitk.ReadImage(path)
    array = np.roll(sitk.GetArrayFromImage(image), 1)
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, path)
    refused(score(place.parent), says=f"the segmentation of t1c of case {CASES[1]} is not what was scored")


def test_a_segmentation_that_failed_may_be_repaired(theirs, score, tmp_path, whole):
    """What was never scored cannot be something else than what was scored."""
    place = theirs("t1c", "both/t1c").parent
    theirs("t2f", "both/t2f")
    broken = place / "t2f" / f"{CASES[0]}.nii.gz"
    good = broken.read_bytes()
    image = sitk.ReadImage(str(broken))
    image.SetOrigin((50, 0, 0))
    sitk.WriteImage(image, str(broken))
    assert score(place).code == 2
    broken.write_bytes(good)
    assert score(place).code == 0
    wanted = [(case, subset) for case in CASES for subset in ("t1c", "t2f")]
    same(read_evaluation(tmp_path / "out").metrics, expected_rows(whole, *wanted))


def test_an_output_among_the_segmentations_is_refused(theirs, score, labels):
    place = theirs("t1c", "in")
    refused(score(place, "--subsets", "t1c", output="in/out"), says="lies in the input")
    refused(score(place, "--subsets", "t1c", output="labels/out"), says="lies in the input")
    assert not (place / "out").exists()
    assert not (labels / "out").exists()
