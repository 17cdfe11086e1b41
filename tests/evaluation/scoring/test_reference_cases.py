"""Which cases are scored, and against which reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_model import dataset_json, plans_json, volume, write_case, write_volume

from nnunetv2_mstkd.datasets.formats import patient_of
from nnunetv2_mstkd.datasets.input_rules import InputRules, parse_patterns
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.scoring.reference_cases import folder_cases, training_cases
from nnunetv2_mstkd.models.folder import ModelFolder

NAMES = ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000")


def model(tmp_path, **mstkd):
    return ModelFolder(tmp_path / "model", dataset_json() | {"mstkd": mstkd}, plans_json())


def values_of(case, known=(0, 1, 2, 3)) -> np.ndarray:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    return case.labels.read(SimpleITKIO, known)[0]


@pytest.fixture
def trained_on(tmp_path, monkeypatch):
    """A raw data set of three cases of two patients, and a split."""
    raw, preprocessed = tmp_path / "raw" / "Dataset990_Tiny", tmp_path / "pre" / "Dataset990_Tiny"
    for name in NAMES:
        for channel in range(4):
            write_volume(raw / "imagesTr" / f"{name}_{channel:04d}.nii.gz", volume(channel))
        write_volume(raw / "labelsTr" / f"{name}.nii.gz", (volume(0) > 500).astype(np.uint8))
    (raw / "dataset.json").write_text(json.dumps(dataset_json()))
    preprocessed.mkdir(parents=True)
    split = [{"train": list(NAMES[:2]), "val": [NAMES[2]]}, {"train": [NAMES[2]], "val": list(NAMES[:2])}]
    (preprocessed / "splits_final.json").write_text(json.dumps(split))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    return model(tmp_path)


@pytest.mark.parametrize(("fold", "names"), [(0, NAMES[2:]), (1, NAMES[:2]), (None, NAMES)])
def test_validation_cases_of_a_fold_or_all(trained_on, fold, names):
    cases = training_cases(trained_on, fold)
    assert tuple(case.name for case in cases) == names
    assert [case.patient for case in cases] == [name[:15] for name in names]
    for case in cases:
        assert list(case.images) == ["t1n", "t1c", "t2w", "t2f"]
        assert case.images["t2f"].name == f"{case.name}_0003.nii.gz"
        assert case.reference.name == f"{case.name}.nii.gz"
        assert case.label_map is None


@pytest.mark.parametrize(
    ("fold", "message"), [("all", "fold all trains on every case"), (5, "has 2 folds, no fold 5")]
)
def test_folds_without_validation_cases(trained_on, fold, message):
    with pytest.raises(MSTKDError, match=message):
        training_cases(trained_on, fold)


def test_a_training_case_whose_reference_is_gone(trained_on, tmp_path):
    (tmp_path / "raw" / "Dataset990_Tiny" / "labelsTr" / f"{NAMES[2]}.nii.gz").unlink()
    with pytest.raises(MSTKDError, match=rf"1 case\(s\) \({NAMES[2]}\) have no reference"):
        training_cases(trained_on, 0)


def test_references_beside_the_images_are_in_the_sources_values(tmp_path):
    folder = write_case(tmp_path / "in", NAMES[0], ("t1c",))
    labels = np.zeros((26, 30, 28), np.uint8)
    labels[5:9, 5:9, 5:9], labels[6, 6, 6] = 4, 1
    write_volume(folder / f"{NAMES[0]}-seg.nii.gz", labels)
    (case,), problems = folder_cases(
        tmp_path / "in", model(tmp_path, source_labels={"1": 1, "2": 2, "3": 4}), None
    )
    assert not problems
    assert list(case.images) == ["t1c"]
    np.testing.assert_array_equal(values_of(case), np.where(labels == 4, 3, labels))
    labels[0, 0, 0] = 2
    labels[0, 0, 1] = 7
    write_volume(folder / f"{NAMES[0]}-seg.nii.gz", labels)
    with pytest.raises(MSTKDError, match="has the label 7; the data set's source has 0, 1, 2, 4"):
        values_of(case)


def test_references_in_a_folder_are_in_the_data_sets_values(tmp_path):
    write_case(tmp_path / "in", NAMES[0], ("t1c",))
    write_volume(tmp_path / "labels" / f"{NAMES[0]}.nii.gz", np.zeros((26, 30, 28), np.uint8))
    known = model(tmp_path, source_labels={"1": 1, "2": 2, "3": 4})
    (case,), _ = folder_cases(tmp_path / "in", known, tmp_path / "labels")
    assert case.label_map is None
    (case,), _ = folder_cases(tmp_path / "in", known, tmp_path / "labels", source_labels=True)
    assert case.label_map == {0: 0, 1: 1, 2: 2, 4: 3}


@pytest.mark.parametrize("value", [4, -1, 255])
def test_values_that_the_data_set_does_not_have_are_refused(tmp_path, value):
    """Counted as background they would make a wrong score that looks like any other."""
    write_case(tmp_path / "in", NAMES[0], ("t1c",))
    labels = np.zeros((26, 30, 28), np.int16)
    labels[5, 5, 5] = value
    write_volume(tmp_path / "labels" / f"{NAMES[0]}.nii.gz", labels)
    (case,), _ = folder_cases(tmp_path / "in", model(tmp_path), tmp_path / "labels")
    with pytest.raises(MSTKDError, match=rf"has the label {value}; the data set has 0, 1, 2, 3 \(.*--source"):
        values_of(case)
    assert values_of(case, known={0, value})[5, 5, 5] == value


def test_source_labels_of_a_data_set_that_names_none(tmp_path):
    write_case(tmp_path / "in", NAMES[0], ("t1c",))
    write_volume(tmp_path / "labels" / f"{NAMES[0]}.nii.gz", np.zeros((26, 30, 28), np.uint8))
    with pytest.raises(MSTKDError, match=r"has no mstkd\.source_labels"):
        folder_cases(tmp_path / "in", model(tmp_path), tmp_path / "labels", source_labels=True)


def test_a_case_without_a_reference_is_refused(tmp_path):
    write_case(tmp_path / "in", NAMES[0], ("t1c",))
    with pytest.raises(MSTKDError, match="beside their images; give --labels FOLDER"):
        folder_cases(tmp_path / "in", model(tmp_path), None)
    with pytest.raises(MSTKDError, match="no reference segmentation in"):
        folder_cases(tmp_path / "in", model(tmp_path), tmp_path)


def test_a_reference_that_was_interpolated_is_refused(tmp_path):
    folder = write_case(tmp_path / "in", NAMES[0], ("t1c",))
    write_volume(folder / f"{NAMES[0]}-seg.nii.gz", np.full((26, 30, 28), 0.5, np.float32))
    (case,), _ = folder_cases(tmp_path / "in", model(tmp_path), None)
    with pytest.raises(MSTKDError, match="values between integers"):
        values_of(case)


@pytest.mark.parametrize(
    ("case", "mstkd", "patient"),
    [
        ("BraTS-GLI-00005-101", {}, "BraTS-GLI-00005"),
        ("BraTS-MEN-00005-000", {"format": "brats2024"}, "BraTS-MEN-00005"),
        ("case_7", {}, "case_7"),
        ("case_7", {"patients": {"case_7": "somebody"}}, "somebody"),
        ("BraTS20_Training_001", {"format": "brats2020"}, "BraTS20_Training_001"),
    ],
)
def test_the_patient_of_a_case(case, mstkd, patient):
    assert patient_of(case, {"mstkd": mstkd}) == patient


def test_cases_under_names_that_do_not_tell(tmp_path):
    for case in ("K1", "K2"):
        write_volume(tmp_path / "in" / f"{case}_mprage.nii.gz", volume(0))
        write_volume(tmp_path / "in" / f"{case}_flair.nii.gz", volume(1))
        write_volume(tmp_path / "in" / f"{case}_tumour.nii.gz", (volume(0) > 500).astype(np.uint8))
    rules = InputRules(patterns=parse_patterns(["t1c=*_mprage.nii.gz", "seg=*_tumour.nii.gz"]))
    by_pattern, problems = folder_cases(tmp_path / "in", model(tmp_path), None, rules=rules)
    assert problems == {}
    table = tmp_path / "cases.csv"
    words = {"T1ce": "mprage", "FLAIR": "flair", "seg": "tumour"}
    rows = [f"{case},{name},in/{case}_{word}.nii.gz" for case in ("K1", "K2") for name, word in words.items()]
    table.write_text("\n".join(["case,sequence,path", *rows]))
    by_table, _ = folder_cases(table, model(tmp_path), None)
    assert by_table == by_pattern
    assert [case.name for case in by_table] == ["K1", "K2"]
    assert {name: path.name for name, path in by_table[1].images.items()} == {
        "t1c": "K2_mprage.nii.gz",
        "t2f": "K2_flair.nii.gz",
    }
    assert by_table[1].reference.name == "K2_tumour.nii.gz"
