"""The command in a process of its own, on small cases and on the real ones."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.cli import main

GLI = "BraTS-GLI-00000-000"


def run_convert(*argv):
    command = [sys.executable, "-m", "nnunetv2_mstkd.cli", "convert", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_cases_without_segmentation_are_left_out_by_name(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-000")
    files.write_case(tmp_path / "src", "BraTS-GLI-00001-000", values=None)
    done = run_convert("-i", tmp_path / "src", "-d", 1, "--name", "A", "--format", "brats2023")
    assert done.returncode == 0, done.stderr
    assert "left out, no segmentation: 1 cases (BraTS-GLI-00001-000)" in done.stdout
    content = json.loads((nnunet.raw / "Dataset001_A" / "dataset.json").read_text())
    assert content["numTraining"] == 1
    assert len(list((nnunet.raw / "Dataset001_A" / "imagesTr").iterdir())) == 4


def test_the_command_says_what_is_incomplete_and_what_comes_next(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-000", channels=("t1n", "t2f"))
    files.write_case(tmp_path / "src", "BraTS-GLI-00000-001", channels=("t1n", "t2f", "t2w"))
    files.write_case(tmp_path / "src", "BraTS-GLI-00001-000")
    argv = ("-i", tmp_path / "src", "-d", 7, "--name", "A", "--format", "auto", "--num-processes", 2)
    done = run_convert(*argv)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{nnunet.raw / 'Dataset007_A'}: 3 cases of 2 patients (BraTS 2023 adult glioma)"
    assert lines[1:10] == [
        "2 of 3 cases lack modalities:",
        "  cases  lack",
        "      2  t1c",
        "      1  t2w",
        "  cases  have exactly",
        "      1  t1n+t2f",
        "      1  t1n+t2w+t2f",
        "      1  t1n+t1c+t2w+t2f",
        "all-zero images stand in for what is absent; training knows of it",
    ]
    assert lines[10] == "2 folds instead of 5: there are no more patients"
    assert lines[-1] == "next: nnUNetv2_plan_and_preprocess -d 7 --verify_dataset_integrity"

    again = run_convert(*argv)
    assert again.returncode == 2
    assert "exists; use --overwrite" in again.stderr
    shutil.rmtree(tmp_path / "src" / "BraTS-GLI-00001-000")
    replaced = run_convert(*argv, "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert replaced.stdout.splitlines()[-1].endswith("--clean")
    assert len(list((nnunet.raw / "Dataset007_A" / "labelsTr").iterdir())) == 2
    assert sorted(p.name for p in nnunet.raw.iterdir()) == ["Dataset007_A"]


def test_the_real_brats_2023_case(nnunet, shared_data, files):
    source = shared_data / GLI
    done = run_convert("-i", source, "-d", 226, "--name", "Real", "--format", "brats2023")
    assert done.returncode == 0, done.stderr
    folder = nnunet.raw / "Dataset226_Real"
    for channel, word in enumerate(files.channels):
        link = folder / "imagesTr" / f"{GLI}_{channel:04d}.nii.gz"
        assert link.resolve() == source / f"{GLI}-{word}.nii.gz"
        assert not os.readlink(link).startswith("/")
    label = sitk.ReadImage(str(folder / "labelsTr" / f"{GLI}.nii.gz"))
    original = sitk.ReadImage(str(source / f"{GLI}-seg.nii.gz"))
    assert label.GetPixelID() == sitk.sitkUInt8
    assert original.GetPixelID() == sitk.sitkFloat32
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(label, what)() == getattr(original, what)()
    counts = np.bincount(sitk.GetArrayFromImage(label).ravel())
    assert counts[1:].tolist() == [11738, 12836, 32731]
    splits = json.loads((nnunet.preprocessed / "Dataset226_Real" / "splits_final.json").read_text())
    assert splits == [{"train": [GLI], "val": [GLI]}]


def test_the_real_decathlon_crops(nnunet, shared_data, files):
    source = shared_data / "msd_crops"
    done = run_convert("-i", source, "-d", 1, "--name", "Crops", "--format", "msd", "--labels")
    assert done.returncode == 0, done.stderr
    folder = nnunet.raw / "Dataset001_Crops"
    assert (folder / "imagesTr" / "BRATS_009_0001.nii.gz").resolve().name == "BRATS_009_T1gd.nii.gz"
    for case, counts in (("BRATS_009", (31643, 120454, 42219)), ("BRATS_119", (17516, 64972, 5979))):
        label = files.read_array(folder / "labelsTr" / f"{case}.nii.gz")
        assert np.bincount(label.ravel())[1:].tolist() == list(counts)  # necrosis, edema, enhancing
    refused = run_convert("-i", source, "-d", 2, "--name", "X", "--format", "brats2021")
    assert refused.returncode == 2
    assert "BRATS_009: label values 0, 1, 2, 3 contradict brats2021 (0, 1, 2, 4)" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_names_that_do_not_tell_are_mapped(tmp_path, nnunet, files, capsys):
    for name in ("K1", "K2"):
        files.write_case(tmp_path / "src", name, channels=("T1mprage", "flair"), seg="tumour")
    common = ["-i", tmp_path / "src", "--format", "brats2023", "--num-processes", 1]
    flags = ["--pattern", "t1n=*-T1mprage.nii.gz", "seg=*-tumour.nii.gz"]
    code = main(["convert", *map(str, [*common, "-d", 3, "--name", "A", *flags])])
    assert (code, capsys.readouterr().err) == (0, "")
    table = tmp_path / "cases.csv"
    words = {"T1": "T1mprage", "FLAIR": "flair", "seg": "tumour"}
    rows = [
        f"{case},{kind},src/{case}/{case}-{word}.nii.gz"
        for case in ("K1", "K2")
        for kind, word in words.items()
    ]
    table.write_text("\n".join(["case,sequence,path", *rows]))
    listed = ["--table", table, "-d", 4, "--name", "B", *common[2:]]
    assert main(["convert", *map(str, listed)]) == 0
    by_pattern, by_table = nnunet.raw / "Dataset003_A", nnunet.raw / "Dataset004_B"
    for name in ("K1_0000.nii.gz", "K1_0003.nii.gz", "K2_0000.nii.gz"):
        source = files.read_array(by_pattern / "imagesTr" / name)
        np.testing.assert_array_equal(files.read_array(by_table / "imagesTr" / name), source)
        word = "T1mprage" if name.endswith("0000.nii.gz") else "flair"
        case = name[:2]
        np.testing.assert_array_equal(
            files.read_array(tmp_path / "src" / case / f"{case}-{word}.nii.gz"), source
        )
    assert json.loads((by_table / "dataset.json").read_text())["mstkd"]["incomplete_cases"] == {
        case: ["t1c", "t2w"] for case in ("K1", "K2")
    }


def test_sessions_of_a_bids_subject_are_on_one_side_of_the_split(tmp_path, nnunet, files):
    for subject in ("01", "02", "03"):
        for session in ("1", "2"):
            case = f"sub-{subject}_ses-{session}"
            folder = tmp_path / "bids" / f"sub-{subject}" / f"ses-{session}" / "anat"
            for suffix in ("T1w", "ce-gadolinium_T1w", "FLAIR"):
                array = np.arange(336, dtype=np.int16).reshape(6, 7, 8)
                files.write_volume(folder / f"{case}_{suffix}.nii.gz", array)
            files.write_volume(folder / f"{case}_dseg.nii.gz", files.segmentation_with((1, 2, 3)))
    flags = ["-d", 5, "--name", "B", "--format", "brats2023", "--num-processes", 1]
    assert main(["convert", "-i", str(tmp_path / "bids"), *map(str, flags)]) == 0
    splits = json.loads((nnunet.preprocessed / "Dataset005_B" / "splits_final.json").read_text())
    assert len(splits) == 3
    for split in splits:
        assert len({case[:6] for case in split["val"]}) == 1
        assert len(split["val"]) == 2
