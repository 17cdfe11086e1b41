import shutil

import pytest

from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "words", "join", "ending"),
    [
        ("BraTS19_CBICA_AAB_1", ("t1", "t1ce", "t2", "flair"), "_", ".nii.gz"),
        ("BraTS20_Training_001", ("t1", "t1ce", "t2", "flair"), "_", ".nii"),
        ("BraTS2021_00000", ("t1", "t1ce", "t2", "flair"), "_", ".nii.gz"),
        ("FeTS2022_00000", ("t1", "t1ce", "t2", "flair"), "_", ".nii.gz"),
        ("BraTS-GLI-00000-000", ("t1n", "t1c", "t2w", "t2f"), "-", ".nii.gz"),
        ("BraTS-GLI-02405-100", ("t1n", "t1c", "t2w", "t2f"), "-", ".nii"),
        ("BRATS_009", ("T1w", "T1gd", "T2w", "FLAIR"), "_", ".nii.gz"),
        ("patient 7", ("T1", "T1-CE", "T2", "T2_FLAIR"), "_", ".nii.gz"),
    ],
)
def test_case_folders_of_every_generation(tmp_path, name, words, join, ending):
    folder = tmp_path / name
    touch(*(folder / f"{name}{join}{word}{ending}" for word in (*words, "seg")), folder / "notes.txt")
    expected = {m: folder / f"{name}{join}{w}{ending}" for m, w in zip(BRATS_MODALITIES, words, strict=True)}
    for source in (tmp_path, folder):
        found = discover(source, BRATS_MODALITIES)
        assert found.problems == {}
        (case,) = found.cases
        assert case.name == name
        assert case.images == expected
        assert list(case.images) == list(BRATS_MODALITIES)
        assert case.segmentation == folder / f"{name}{join}seg{ending}"


def test_files_that_carry_no_case_name(tmp_path):
    touch(tmp_path / "p1" / "T1.nii.gz", tmp_path / "p1" / "flair.nii.gz")
    (case,) = discover(tmp_path, BRATS_MODALITIES).cases
    assert case.name == "p1"
    assert set(case.images) == {"t1n", "t2f"}
    assert case.segmentation is None
    assert discover(tmp_path / "p1", BRATS_MODALITIES).cases == (case,)


def test_flat_nnunet_folder_keeps_channels_in_place_when_one_is_absent(tmp_path):
    touch(*(tmp_path / f"a_1_{i:04d}.nii.gz" for i in (0, 3)), tmp_path / "b_0001.nii.gz")
    found = discover(tmp_path, ("t2f", "ADC", "t1c", "t2w"))
    assert [c.name for c in found.cases] == ["a_1", "b"]
    assert found.cases[0].images == {
        "t2f": tmp_path / "a_1_0000.nii.gz",
        "t2w": tmp_path / "a_1_0003.nii.gz",
    }
    assert found.cases[1].images == {"ADC": tmp_path / "b_0001.nii.gz"}


def test_other_file_endings_of_a_data_set(tmp_path):
    touch(tmp_path / "a_0000.mha")
    (case,) = discover(tmp_path, ("t1n",), file_ending=".mha").cases
    assert case.images == {"t1n": tmp_path / "a_0000.mha"}


def test_flat_folder_of_named_files_holds_one_case_per_name(tmp_path):
    touch(*(tmp_path / f"{case}_{word}.nii.gz" for case in ("c1", "c10") for word in ("t1", "flair", "seg")))
    touch(tmp_path / "c10_adc.nii.gz")
    found = discover(tmp_path, BRATS_MODALITIES)
    assert [(c.name, list(c.images)) for c in found.cases] == [("c1", ["t1n", "t2f"])]
    assert found.cases[0].segmentation == tmp_path / "c1_seg.nii.gz"
    assert list(found.problems) == ["c10"]


@pytest.mark.parametrize("name", ["W39_1998.09.19_Segm.nii.gz", "x_segmentation.nii.gz"])
def test_segmentations_under_other_names(tmp_path, name):
    # BraTS 2020 case 355 has the first of these.
    touch(tmp_path / "BraTS20_Training_355" / "BraTS20_Training_355_t1.nii.gz")
    touch(tmp_path / "BraTS20_Training_355" / name)
    (case,) = discover(tmp_path, BRATS_MODALITIES).cases
    assert case.segmentation.name == name


def test_hidden_files_are_no_images(tmp_path):
    touch(
        tmp_path / "a" / "a_t1.nii.gz", tmp_path / "a" / "._a_t1.nii.gz", tmp_path / ".cache" / "x_t1.nii.gz"
    )
    found = discover(tmp_path, BRATS_MODALITIES)
    assert [c.name for c in found.cases] == ["a"]
    assert found.problems == {}


def test_a_broken_link_is_not_taken_for_an_absent_file(tmp_path):
    touch(tmp_path / "a" / "a_t1.nii.gz")
    (tmp_path / "a" / "a_t2.nii.gz").symlink_to("nowhere.nii.gz")
    (case,) = discover(tmp_path, BRATS_MODALITIES).cases
    assert set(case.images) == {"t1n", "t2w"}


BAD_FOLDERS = {
    "two files for one modality": (
        ["t1ce", "t1c", "t2"],
        ["2 files for t1c", "x_t1c.nii.gz", "x_t1ce.nii.gz"],
    ),
    "two segmentations": (["t1", "seg", "segmentation"], ["2 files for the segmentation"]),
    "unknown modality": (["t1", "adc"], ["unknown modality", "x_adc.nii.gz", "t1n, t1c, t2w, t2f"]),
    "no modality": (["seg"], ["no modality at all"]),
    "nothing": ([], ["no modality at all"]),
}


@pytest.mark.parametrize(("words", "expected"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_a_bad_case_is_reported_and_the_others_are_usable(tmp_path, words, expected):
    (tmp_path / "x").mkdir()
    touch(*(tmp_path / "x" / f"x_{word}.nii.gz" for word in words), tmp_path / "good" / "good_t1.nii.gz")
    found = discover(tmp_path, BRATS_MODALITIES)
    assert [c.name for c in found.cases] == ["good"]
    assert list(found.problems) == ["x"]
    for part in expected:
        assert part in found.problems["x"]
    assert "\n" not in found.problems["x"]


def test_compressed_and_plain_copies_of_one_modality_are_two_files(tmp_path):
    touch(tmp_path / "x_0000.nii.gz", tmp_path / "x_0000.nii")
    found = discover(tmp_path, ("t1n",))
    assert found.cases == ()
    assert "2 files for t1n" in found.problems["x"]


def test_files_of_two_patients_in_one_folder(tmp_path):
    touch(tmp_path / "p" / "BraTS2021_00001_t1.nii.gz", tmp_path / "p" / "BraTS2021_00002_t2.nii.gz")
    touch(tmp_path / "q" / "q_t1.nii.gz")
    found = discover(tmp_path, BRATS_MODALITIES)
    assert "BraTS2021_00001, BraTS2021_00002" in found.problems["p"]


def test_duplicate_case_ids_are_found_behind_folder_names(tmp_path):
    name = "BraTS-GLI-00000-000"
    touch(tmp_path / name / f"{name}-t1n.nii.gz")
    shutil.copytree(tmp_path / name, tmp_path / f"{name} (copy)")
    found = discover(tmp_path, BRATS_MODALITIES)
    assert found.cases == ()
    assert "duplicate case id" in found.problems[name]
    assert f"{name}, {name} (copy)" in found.problems[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [("a_0004.nii.gz", "unknown channel _0004"), ("a.nii.gz", "carries no channel number")],
)
def test_bad_names_in_a_flat_folder(tmp_path, name, message):
    touch(tmp_path / name, tmp_path / "b_0000.nii.gz")
    found = discover(tmp_path, BRATS_MODALITIES)
    assert [c.name for c in found.cases] == ["b"]
    assert message in found.problems["a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "input not found"),
        (lambda p: p.touch(), "is a file"),
        (lambda p: p.mkdir(), "no cases in"),
        (lambda p: touch(p / "readme.txt", p / "deeper" / "case" / "case_t1.nii.gz"), "no cases in"),
    ],
)
def test_sources_without_any_case_are_refused(tmp_path, make, message):
    make(tmp_path / "src")
    with pytest.raises(MSTKDError, match=message):
        discover(tmp_path / "src", BRATS_MODALITIES)


def test_real_cases(shared_data):
    (brats,) = discover(shared_data / "BraTS-GLI-00000-000", BRATS_MODALITIES).cases
    assert brats.images["t2f"].name == "BraTS-GLI-00000-000-t2f.nii.gz"
    crops = discover(shared_data / "msd_crops", BRATS_MODALITIES)
    assert [c.name for c in crops.cases] == ["BRATS_009", "BRATS_119"]
    assert crops.cases[1].images["t1c"].name == "BRATS_119_T1gd.nii.gz"
    assert not crops.problems
