"""``nnUNetv2_mstkd preprocess``: what is asked of brainles-preprocessing, and what stays when it fails.

CI has no such library: a stand-in with its signatures takes its place. With the library installed, the last
two tests compare the signatures and register a phantom case (without download: native space, skull kept).
"""

import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from brainles import REAL, assert_same_signatures, needs_library, stand_in

from nnunetv2_mstkd.cli import main

REMINDER = "BRAINLES_PREPROCESSING_CITATION_REMINDER"


def write(path, shape=(12, 14, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


@pytest.fixture
def preprocess(tmp_path, monkeypatch, capsys):
    """Run the command with the stand-in."""
    monkeypatch.delenv(REMINDER, raising=False)
    with stand_in("preprocess", tmp_path / "asked.jsonl", monkeypatch, capsys) as run:
        yield run
    os.environ.pop(REMINDER, None)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_cases_are_written_where_predict_looks(preprocess, tmp_path):
    for word in ("t1", "t1ce", "flair"):
        write(tmp_path / "in" / "A" / f"A_{word}.nii.gz")
    write(tmp_path / "in" / "B" / "B_t2.nii")
    write(tmp_path / "in" / "bad" / "bad_t1.nii.gz")
    done = preprocess("-i", tmp_path / "in", "-o", tmp_path / "out", "--transforms", tmp_path / "matrices")
    assert done.code == 2
    assert done.out.splitlines() == [
        "[1/3] A: t1n+t1c+t2f",
        "[2/3] B: t2w",
        "[3/3] bad: failed",
        f"{tmp_path / 'out'}: 2 case(s) preprocessed, 1 failed",
    ]
    assert done.err.splitlines()[-1] == "bad: brainles-preprocessing stopped: registration diverged"
    assert files_below(tmp_path / "out") == [
        "A/A-t1c.nii.gz",
        "A/A-t1n.nii.gz",
        "A/A-t2f.nii.gz",
        "B/B-t2w.nii.gz",
    ]
    assert sorted(path.name for path in (tmp_path / "matrices").iterdir()) == ["A", "B"]
    assert (tmp_path / "out" / "B" / "B-t2w.nii.gz").read_bytes()[:2] == b"\x1f\x8b", (
        "compressed, as its name says"
    )
    assert done.asked[0] == {
        "class": "AtlasCentricPreprocessor",
        "centre": "t1c",
        "moving": ["t1n", "t2f"],
        "atlas": "sri24",
        "skull_strip": True,
        "use_gpu": True,
        "reminder": "false",
    }
    assert (done.asked[1]["centre"], done.asked[1]["moving"]) == ("t2w", [])

    again = preprocess("-i", tmp_path / "in", "-o", tmp_path / "out")
    assert len(again.asked) == 1
    assert "0 case(s) preprocessed, 2 were there before, 1 failed" in again.out


def test_images_of_one_name_in_several_folders_stay_apart(preprocess, tmp_path):
    write(tmp_path / "in" / "P1" / "T1post" / "brain.nii", (12, 14, 16))
    write(tmp_path / "in" / "P1" / "FLAIR" / "brain.nii", (10, 11, 9))
    patterns = ("--pattern", "t1c=*/T1post/*.nii", "t2f=*/FLAIR/*.nii")
    assert preprocess("-i", tmp_path / "in", "-o", tmp_path / "out", *patterns).code == 0
    for name, size in (("t1c", (16, 14, 12)), ("t2f", (9, 11, 10))):
        assert sitk.ReadImage(str(tmp_path / "out" / "P1" / f"P1-{name}.nii.gz")).GetSize() == size


def test_images_of_a_table_do_not_count_as_results(preprocess, tmp_path):
    image = tmp_path / "data" / "P1" / "P1_t1.nii.gz"
    write(image)
    table = tmp_path / "table.csv"
    table.write_text(f"case,sequence,path\nP1,t1n,{image}\n")
    done = preprocess("--table", table, "-o", tmp_path / "data")
    assert (done.code, done.asked) == (2, [])
    assert f"{image} lies in {tmp_path / 'data' / 'P1'}, where its case is to be written" in done.err


def test_the_flags_reach_the_library(preprocess, tmp_path):
    for word in ("t1", "t1ce"):
        write(tmp_path / "in" / "A" / f"A_{word}.nii.gz")
    write(tmp_path / "atlas.nii.gz")
    common = ("-i", tmp_path / "in", "--keep-skull", "-device", "cpu")
    (native,) = preprocess(*common, "-o", tmp_path / "o1", "--space", "native", "--centre", "T1").asked
    assert (native["class"], native["centre"]) == ("NativeSpacePreprocessor", "t1n")
    assert (native["skull_strip"], native["use_gpu"]) == (False, False)
    (own,) = preprocess(*common, "-o", tmp_path / "o2", "--space", tmp_path / "atlas.nii.gz").asked
    assert (own["class"], own["atlas"]) == ("AtlasCentricPreprocessor", str(tmp_path / "atlas.nii.gz"))
    done = preprocess(*common, "-o", tmp_path / "o3", "--centre", "flair")
    assert (done.code, done.asked) == (2, [])
    assert "the case has no t2f; it has t1n, t1c" in done.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("-o", "out", "--space", "mni"), "--space mni is neither sri24, native nor a file"),
        (("-o", "out", "--centre", "adc"), "unknown modality 'adc'"),
        (("-o", "in/out"), "lies in the input"),
        pytest.param(
            ("-o", "out"), "pip install 'nnunetv2-mstkd[preprocess]'",
            marks=pytest.mark.skipif(REAL, reason="the library is there"),
        ),
    ],
)  # fmt: skip
def test_refusals(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "A" / "A_t1.nii.gz")
    assert main(["preprocess", "-i", "in", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert not (tmp_path / "out").exists()


@needs_library
def test_the_stand_in_has_the_signatures_of_the_library():
    from brainles_preprocessing import modality, preprocessor

    for real in (modality.Modality, modality.CenterModality):
        assert_same_signatures("modality", real, "__init__")
    for real in (preprocessor.AtlasCentricPreprocessor, preprocessor.NativeSpacePreprocessor):
        assert_same_signatures("preprocessor", real, "__init__", "run")


@pytest.mark.slow
@needs_library
def test_the_library_registers_a_case_of_three_grids(tmp_path):
    assert main(["phantom", "-o", str(tmp_path / "p"), "--cases", "1", "--shape", "48", "48", "48"]) == 0
    (case,) = (tmp_path / "p").iterdir()
    raw = tmp_path / "raw" / case.name
    raw.mkdir(parents=True)
    shutil.copy(case / f"{case.name}-t1c.nii.gz", raw)
    flair = sitk.ReadImage(str(case / f"{case.name}-t2f.nii.gz"))
    moved = sitk.Resample(flair, flair, sitk.TranslationTransform(3, (5.0, -3.0, 2.0)))
    sitk.WriteImage(moved[:, 2:, ::2], str(raw / f"{case.name}-t2f.nii.gz"))
    flags = ["--space", "native", "--keep-skull", "-device", "cpu"]
    assert main(["preprocess", "-i", str(tmp_path / "raw"), "-o", str(tmp_path / "out"), *flags]) == 0
    registered = sitk.ReadImage(str(tmp_path / "out" / case.name / f"{case.name}-t2f.nii.gz"))
    assert registered.GetSize() == flair.GetSize()
    truth = sitk.GetArrayFromImage(flair).astype(float)
    before, after = (
        sitk.GetArrayFromImage(sitk.Resample(i, flair)).astype(float) for i in (moved, registered)
    )
    inside = truth > 0
    wrong, right = (np.corrcoef(truth[inside], image[inside])[0, 1] for image in (before, after))
    assert right > max(0.8, wrong + 0.2), (wrong, right)
    assert main(["inspect", "-i", str(tmp_path / "out")]) == 0
