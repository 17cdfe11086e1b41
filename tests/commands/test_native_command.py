"""``nnUNetv2_mstkd native``: segmentations back on the grids of the raw scans.

CI has no brainles-preprocessing: the stand-in resamples and moves nothing. With the library installed, the
last test moves a phantom case to an atlas and its segmentation back.
"""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from brainles import assert_same_signatures, needs_library, stand_in

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.nifti_labels import add_label_table
from nnunetv2_mstkd.datasets.regions import named_labels
from nnunetv2_mstkd.files import read_json, write_json

DATASET = {
    "channel_names": {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"},
    "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
    "file_ending": ".nii.gz",
    "numTraining": 1,
}


def image(shape, *, spacing=(1.0, 1.0, 1.0), dtype=np.int16):
    made = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=dtype).reshape(shape))
    made.SetSpacing(spacing)
    return made


def write(made, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(made, str(path))


def matrices(folder, **names):
    for sequence, files in names.items():
        (folder / sequence).mkdir(parents=True)
        for name in files:
            (folder / sequence / name).write_bytes(b"")


@pytest.fixture
def labels():
    """A segmentation on the preprocessed grid: 12 x 12 x 12 voxels of 2 mm, ED around ET."""
    array = np.zeros((12, 12, 12), dtype=np.uint8)
    array[3:9, 3:9, 3:9], array[5:7, 5:7, 5:7] = 2, 3
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((2.0, 2.0, 2.0))
    return made


@pytest.fixture
def work(tmp_path, labels):
    """Case A with two raw sequences on grids of their own, its matrices and its segmentation."""
    write(image((24, 24, 24)), tmp_path / "raw" / "A" / "A_t1ce.nii.gz")
    write(image((12, 24, 24), spacing=(1.0, 1.0, 2.0)), tmp_path / "raw" / "A" / "A_flair.nii")
    matrices(tmp_path / "mat" / "A", t1c=["2_atlas.mat"], t2f=["1_co.mat", "2_atlas.mat", "3_corrected.mat"])
    write(labels, tmp_path / "plain.nii")
    (tmp_path / "seg").mkdir()
    add_label_table(tmp_path / "plain.nii", tmp_path / "seg" / "A.nii.gz", named_labels(DATASET))
    write_json(DATASET, tmp_path / "seg" / "dataset.json")
    write_json({"A": {"used": ["t1c", "t2f"]}}, tmp_path / "seg" / "modalities.json")
    return tmp_path


@pytest.fixture
def native(work, monkeypatch, capsys):
    """Run the command with the stand-in; flags given replace those of ``work``."""
    with stand_in("native", work / "asked.jsonl", monkeypatch, capsys) as run:

        def bring_back(*flags):
            given = {"-p": work / "seg", "-i": work / "raw", "--transforms": work / "mat", "-o": work / "out"}
            given |= dict(zip(flags[::2], flags[1::2], strict=True))
            return run(*(word for pair in given.items() for word in pair))

        yield bring_back


def read(path):
    found = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(found), found


def test_a_segmentation_lies_on_the_raw_grid_with_the_names_of_its_labels(native, work):
    done = native()
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["[1/1] A: t1c", f"{work / 'out'}: 1 segmentation(s) brought back"]
    assert done.asked == [
        {
            "target": "t1c",
            "matrices": ["2_atlas.mat"],
            "interpolator": "genericLabel",
            "inverse": True,
            "parameters": {"defaultvalue": 0},
        }
    ]
    array, found = read(work / "out" / "A.nii.gz")
    assert (found.GetSize(), found.GetSpacing()) == ((24, 24, 24), (1.0, 1.0, 1.0))
    assert array.dtype == np.uint8
    assert {int(v): int((array == v).sum()) for v in np.unique(array)} == {0: 12096, 2: 1664, 3: 64}
    (names,) = nib.load(work / "out" / "A.nii.gz").header.extensions
    assert b">ET</Label>" in names.get_content()


def test_the_folder_can_be_measured_in_native_space(native, work):
    native()
    assert read_json(work / "out" / "modalities.json") == {"A": {"used": ["t1c", "t2f"]}}
    assert main(["statistics", "-p", str(work / "out")]) == 0
    regions = read_json(work / "out" / "statistics.json")["cases"]["A"]["regions"]
    assert regions["ET"]["voxels"] == 64


def test_another_sequence_has_another_grid(native, work):
    done = native("--sequence", "FLAIR")
    assert done.code == 0, done.err
    assert done.asked[0]["matrices"] == ["1_co.mat", "2_atlas.mat", "3_corrected.mat"]
    array, found = read(work / "out" / "A.nii.gz")
    assert (array.shape, found.GetSpacing()) == ((12, 24, 24), (1.0, 1.0, 2.0))


def test_the_centre_of_native_space_keeps_its_segmentation(native, work, labels):
    """``preprocess --space native`` leaves no matrix of its centre."""
    (work / "mat" / "A" / "t1c" / "2_atlas.mat").unlink()
    done = native()
    assert (done.code, done.asked) == (2, [])
    assert "differ in size (24, 24, 24) and (12, 12, 12), and no matrix leads" in done.err
    assert not (work / "out" / "A.nii.gz").exists()
    write(image((12, 12, 12), spacing=(2.0, 2.0, 2.0)), work / "raw" / "A" / "A_t1ce.nii.gz")
    assert native().code == 0
    assert np.array_equal(read(work / "out" / "A.nii.gz")[0], sitk.GetArrayFromImage(labels))


def test_one_case_fails_and_the_others_are_brought_back(native, work):
    for case in ("B", "C", "D"):
        (work / "seg" / f"{case}.nii.gz").write_bytes((work / "seg" / "A.nii.gz").read_bytes())
    for case in ("B", "C"):
        write(image((24, 24, 24)), work / "raw" / case / f"{case}_t1ce.nii.gz")
    matrices(work / "mat" / "B", t1c=["bad.mat"])
    matrices(work / "mat" / "C", t1n=["2_atlas.mat"])
    done = native()
    assert done.code == 2
    assert f"{work / 'out'}: 1 segmentation(s) brought back, 3 failed" in done.out
    assert done.err.splitlines()[1:] == [
        "B: brainles-preprocessing stopped: matrix unreadable",
        f"C: no matrices of t1c in {work / 'mat' / 'C'}; it has those of t1n",
        "D: there is no such case among the raw scans",
    ]
    assert sorted(p.name for p in (work / "out").glob("*.nii.gz")) == ["A.nii.gz"]
    assert list(read_json(work / "out" / "modalities.json")) == ["A"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("-p", "nowhere"), "no folder nowhere; give the -o folder of predict"),
        (("--transforms", "nowhere"), "no folder nowhere; give that of preprocess --transforms"),
        (("-o", "seg"), "-o seg is the folder of the segmentations itself"),
        (("-p", "raw"), "raw has no dataset.json; give the model as -m MODEL_FOLDER"),
        (("--sequence", "adc"), "unknown modality 'adc'"),
    ],
)
def test_refusals(flags, says, native, work, monkeypatch):
    monkeypatch.chdir(work)
    done = native(*flags)
    assert (done.code, done.err.count("\n"), done.asked) == (2, 1, [])
    assert says in done.err
    assert not (work / "out").exists()


def test_without_the_library_it_says_how_to_install_it(work, monkeypatch, capsys):
    monkeypatch.setattr("nnunetv2_mstkd.datasets.brain_preprocessing.find_spec", lambda name: None)
    flags = ["-p", work / "seg", "-i", work / "raw", "--transforms", work / "mat", "-o", work / "out"]
    assert main(["native", *map(str, flags)]) == 2
    assert "pip install 'nnunetv2-mstkd[preprocess]'" in capsys.readouterr().err
    assert not (work / "out").exists()


@needs_library
def test_the_stand_in_has_the_signatures_of_the_library():
    from brainles_preprocessing.registration import ANTsRegistrator
    from brainles_preprocessing.transform import Transform

    assert_same_signatures("transform", Transform, "__init__", "apply")
    assert_same_signatures("registration", ANTsRegistrator, "__init__")


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.slow
@needs_library
def test_the_library_brings_a_segmentation_back_from_an_atlas(tmp_path):
    assert main(["phantom", "-o", str(tmp_path / "p"), "--cases", "1", "--shape", "48", "52", "40"]) == 0
    (case,) = (tmp_path / "p").iterdir()
    raw = {name: sitk.ReadImage(str(case / f"{case.name}-{name}.nii.gz")) for name in ("t1n", "t1c", "t2f")}
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.1, 0.05, -0.08, (3.0, -2.0, 1.5))
    turn.SetCenter(raw["t1n"].TransformContinuousIndexToPhysicalPoint([n / 2 for n in raw["t1n"].GetSize()]))
    atlas = sitk.ConstantPad(raw["t1n"], [6, 4, 6], [6, 4, 6], 0.0)
    write(sitk.Resample(raw["t1n"], atlas, turn), tmp_path / "atlas.nii.gz")
    moved = sitk.Resample(raw["t2f"], raw["t2f"], sitk.TranslationTransform(3, (4.0, -3.0, 2.0)))
    raw["t2f"] = moved[:, 2:, ::2]
    for name in ("t1c", "t2f"):
        write(raw[name], tmp_path / "raw" / case.name / f"{case.name}-{name}.nii.gz")
    flags = ["--space", str(tmp_path / "atlas.nii.gz"), "--keep-skull", "-device", "cpu"]
    there = ["-i", str(tmp_path / "raw"), "--transforms", str(tmp_path / "mat")]
    assert main(["preprocess", *there, "-o", str(tmp_path / "images"), *flags]) == 0

    # What is brain, and what is bright in t1c, can be told on every grid.
    array, found = read(tmp_path / "images" / case.name / f"{case.name}-t1c.nii.gz")
    bright = np.percentile(array[array > 0], 80)
    segmentation = sitk.GetImageFromArray(
        (array > 0).astype(np.uint8) + 2 * (array > bright).astype(np.uint8)
    )
    segmentation.CopyInformation(found)
    write(segmentation, tmp_path / "seg" / f"{case.name}.nii.gz")
    write_json(DATASET, tmp_path / "seg" / "dataset.json")
    for sequence in ("t1c", "t2f"):
        out = tmp_path / sequence
        back = ["-p", str(tmp_path / "seg"), "-o", str(out), "--sequence", sequence]
        assert main(["native", *there, *back]) == 0
        array, found = read(out / f"{case.name}.nii.gz")
        assert found.GetSize() == raw[sequence].GetSize()
        truth = sitk.GetArrayFromImage(raw[sequence])
        assert dice(array > 0, truth > 0) > 0.97
        if sequence == "t1c":
            assert dice(array == 3, truth > bright) > 0.85
