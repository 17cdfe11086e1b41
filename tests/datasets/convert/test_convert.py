import json
import os
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.convert.convert import convert

OLD_WORDS = ("t1", "t1ce", "t2", "flair")
GLI = "BraTS-GLI-00000-000"


def dataset_of(conversion):
    return json.loads((conversion.folder / "dataset.json").read_text())


def test_brats_2021(tmp_path, nnunet, files):
    for i in range(6):
        files.write_case(
            tmp_path / "src", f"BraTS2021_{i:05d}", values=(1, 2, 4), channels=OLD_WORDS, join="_"
        )
    conversion = convert(tmp_path / "src", 137, "BraTS2021", source_format="brats2021")
    assert conversion.folder == nnunet.raw / "Dataset137_BraTS2021"
    content = dataset_of(conversion)
    assert content["channel_names"] == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    assert content["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    assert content["regions_class_order"] == [2, 1, 3]
    assert content["numTraining"] == 6
    assert content["file_ending"] == ".nii.gz"
    assert content["mstkd"]["format"] == "brats2021"
    assert content["mstkd"]["source_labels"] == {"1": 1, "2": 2, "3": 4}
    assert content["mstkd"]["incomplete_cases"] == {}
    assert content["mstkd"]["patients"]["BraTS2021_00003"] == "BraTS2021_00003"
    images = sorted(p.name for p in (conversion.folder / "imagesTr").iterdir())
    assert images == [f"BraTS2021_{i:05d}_{c:04d}.nii.gz" for i in range(6) for c in range(4)]
    for case in content["mstkd"]["patients"]:
        for channel, word in enumerate(OLD_WORDS):
            link = conversion.folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
            assert not os.path.isabs(os.readlink(link))
            assert link.resolve() == tmp_path / "src" / case / f"{case}_{word}.nii.gz"
        # 4 became 3, so this is a file of its own.
        label = conversion.folder / "labelsTr" / f"{case}.nii.gz"
        assert not label.is_symlink()
        assert files.read_array(label).ravel()[:4].tolist() == [1, 2, 3, 0]
    splits = json.loads((nnunet.preprocessed / "Dataset137_BraTS2021" / "splits_final.json").read_text())
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == sorted(content["mstkd"]["patients"])


def test_brats_2024_with_resection_cavity_and_time_points(tmp_path, nnunet, files):
    names = [f"BraTS-GLI-{p:05d}-{t}" for p in range(4) for t in (100, 101)]
    for name in names:
        files.write_case(tmp_path / "src", name, values=(1, 2, 3, 4))
    conversion = convert(tmp_path / "src", 226, "GLI", source_format="brats2024", folds=4)
    content = dataset_of(conversion)
    assert list(content["labels"]) == ["background", "WT", "TC", "ET", "RC"]
    assert content["labels"]["WT"] == [1, 2, 3]
    # Nothing to change, so the segmentation is linked as well.
    label = conversion.folder / "labelsTr" / f"{names[0]}.nii.gz"
    assert label.is_symlink()
    assert label.resolve() == tmp_path / "src" / names[0] / f"{names[0]}-seg.nii.gz"
    for split in json.loads(conversion.splits_file.read_text()):
        assert {c[:15] for c in split["val"]}.isdisjoint({c[:15] for c in split["train"]})
        assert len(split["val"]) == 2


def test_plain_labels(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-100", values=(1, 4))
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2024", regions=False)
    content = dataset_of(conversion)
    assert content["labels"] == {"background": 0, "NCR": 1, "ED": 2, "ET": 3, "RC": 4}
    assert "regions_class_order" not in content


def test_missing_sequences_get_an_empty_placeholder_and_are_recorded(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-000")
    files.write_case(tmp_path / "src", "BraTS-GLI-00001-000", channels=("t1n", "t2f"))
    blank = tmp_path / "src" / "BraTS-GLI-00002-000"
    files.write_case(tmp_path / "src", blank.name)
    files.write_volume(blank / f"{blank.name}-t2w.nii.gz", np.full((6, 7, 8), 100, np.int16))
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2023")
    absent = {"BraTS-GLI-00001-000": ["t1c", "t2w"], "BraTS-GLI-00002-000": ["t2w"]}
    assert {k: list(v) for k, v in conversion.availability.incomplete.items()} == absent
    assert dataset_of(conversion)["mstkd"]["incomplete_cases"] == absent
    images = conversion.folder / "imagesTr"
    present = sitk.ReadImage(str(images / "BraTS-GLI-00001-000_0000.nii.gz"))
    for name, channel in (("BraTS-GLI-00001-000", 1), ("BraTS-GLI-00001-000", 2), (blank.name, 2)):
        placeholder = images / f"{name}_{channel:04d}.nii.gz"
        assert not placeholder.is_symlink()
        image = sitk.ReadImage(str(placeholder))
        assert not sitk.GetArrayFromImage(image).any()
        for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(image, what)() == getattr(present, what)()


def test_float_segmentations_are_written_as_integers(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", GLI, dtype=np.float32)
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2023")
    label = conversion.folder / "labelsTr" / f"{GLI}.nii.gz"
    assert not label.is_symlink()
    array = files.read_array(label)
    assert array.dtype == np.uint8
    assert array.ravel()[:4].tolist() == [1, 2, 3, 0]


def test_uncompressed_sources_stay_uncompressed(tmp_path, nnunet, files):
    words = OLD_WORDS[:3]
    files.write_case(
        tmp_path / "src", "BraTS20_Training_001", values=(1, 2), channels=words, join="_", ending=".nii"
    )
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2020")
    assert dataset_of(conversion)["file_ending"] == ".nii"
    written = [*(conversion.folder / "imagesTr").iterdir(), *(conversion.folder / "labelsTr").iterdir()]
    assert {p.suffix for p in written} == {".nii"}
    assert sum(p.is_symlink() for p in written) == 4


def test_mixed_endings_become_one(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-000")
    files.write_case(tmp_path / "src", "BraTS-GLI-00001-000", ending=".nii")
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2023")
    assert dataset_of(conversion)["file_ending"] == ".nii.gz"
    for name, ending in (("BraTS-GLI-00000-000", ".nii.gz"), ("BraTS-GLI-00001-000", ".nii")):
        for channel, word in enumerate(files.channels):
            written = conversion.folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            assert written.is_symlink() == (ending == ".nii.gz")
            source = tmp_path / "src" / name / f"{name}-{word}{ending}"
            assert np.array_equal(files.read_array(written), files.read_array(source))


def test_copies_hold_without_the_source(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", GLI)
    expected = files.read_array(tmp_path / "src" / GLI / f"{GLI}-t1c.nii.gz")
    conversion = convert(tmp_path / "src", 1, "A", source_format="brats2023", copy=True)
    shutil.rmtree(tmp_path / "src")
    assert not any(p.is_symlink() for p in conversion.folder.rglob("*"))
    assert np.array_equal(files.read_array(conversion.folder / "imagesTr" / f"{GLI}_0001.nii.gz"), expected)


def test_links_hold_where_folders_are_links_themselves(tmp_path, nnunet, files, monkeypatch):
    files.write_case(tmp_path / "deep" / "er" / "src", GLI)
    (tmp_path / "real" / "raw").mkdir(parents=True)
    (tmp_path / "raw_link").symlink_to("real/raw")
    (tmp_path / "src_link").symlink_to("deep/er/src")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw_link"))
    monkeypatch.chdir(tmp_path)
    conversion = convert(Path("src_link"), 1, "A", source_format="brats2023")
    for link in (conversion.folder / "imagesTr").iterdir():
        assert link.is_symlink()
        assert link.exists()
    # Moved together, source and data set still fit.
    (tmp_path / "elsewhere").mkdir()
    for part in ("real", "deep"):
        (tmp_path / part).rename(tmp_path / "elsewhere" / part)
    moved = list((tmp_path / "elsewhere/real/raw/Dataset001_A/imagesTr").iterdir())
    assert len(moved) == 4
    assert all(p.exists() for p in moved)
