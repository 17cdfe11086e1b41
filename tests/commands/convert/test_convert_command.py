"""The command in a process of its own, on small cases and on the real ones."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import SimpleITK as sitk

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
