"""Whatever nnU-Net's readers read: 2D images, nrrd, mha and tif, with files missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_mstkd import MSTKDError, Segmenter
from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.evaluation.record.record import read_evaluation

NAMES = ("red", "blue")
SIZE = (40, 44)
_STATISTICS = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")


def write_2d(folder: Path, case: str, *channels: int, ending: str = ".png", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel in channels:
        array = np.random.default_rng(10 * seed + channel).integers(1, 255, SIZE).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{case}_{channel:04d}{ending}"))


@pytest.fixture(scope="module")
def planned_2d(tmp_path_factory, files):
    """A data set of png images, planned by the command, and a model of these plans with random weights."""
    root = tmp_path_factory.mktemp("natural")
    raw, preprocessed = (root / n / "Dataset012_Png" for n in ("nnUNet_raw", "nnUNet_preprocessed"))
    write_2d(raw / "imagesTr", "train", 0, 1)
    preprocessed.mkdir(parents=True)
    dataset = files.dataset_json(NAMES, ending=".png") | {"numTraining": 4}
    fingerprint = {
        "spacings": [[999, 1, 1]] * 4,
        "shapes_after_crop": [[1, *SIZE]] * 4,
        "foreground_intensity_properties_per_channel": {
            str(index): dict.fromkeys(_STATISTICS, 1.0) for index in range(2)
        },
        "median_relative_size_after_cropping": 1.0,
    }
    images = [str(raw / "imagesTr" / f"train_{channel:04d}.png") for channel in range(2)]
    listed = {"dataset": {"train": {"images": images, "label": "labelsTr/train.png"}}}
    (raw / "dataset.json").write_text(json.dumps(dataset | listed))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw.parent))
        patch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
        patch.setenv("nnUNet_n_proc_DA", "1")
        sizes = "--patch-size 32 32 --max-stages 3 --base-features 4"
        assert (
            main(["plan", "-d", "12", *sizes.split(), "--network", "plans", "-overwrite_plans_name", "P"])
            == 0
        )
    plans = json.loads((preprocessed / "P.json").read_text())
    return files.write_model(root / "nnUNetTrainer__P__2d", dataset, plans, configuration_name="2d")


def test_2d_images_with_a_file_missing(planned_2d, predict, tmp_path):
    write_2d(tmp_path / "in", "whole", 0, 1)
    write_2d(tmp_path / "in", "part", 1, seed=1)
    done = predict(tmp_path / "in", tmp_path / "out", model=planned_2d)
    assert done.code == 0, done.err
    found = {p.name: sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (tmp_path / "out").glob("*.png")}
    assert {name: array.shape for name, array in found.items()} == {"whole.png": SIZE, "part.png": SIZE}
    assert json.loads((tmp_path / "out" / "modalities.json").read_text())["part"]["absent"] == ["red"]
    assert len(np.unique(found["part.png"])) > 1, "nothing was segmented"

    stock = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(planned_2d), (0,))
    images = [str(tmp_path / "in" / f"whole_{channel:04d}.png") for channel in range(2)]
    expected = stock.predict_single_npy_array(*NaturalImage2DIO().read_images(images), None, None, False)
    np.testing.assert_array_equal(found["whole.png"], expected[0])

    segmenter = Segmenter(planned_2d, device="cpu", mirroring=False)
    blue = tmp_path / "in" / "part_0001.png"
    for image in (blue, sitk.ReadImage(str(blue))):
        result = segmenter(blue=image, probabilities=True)
        np.testing.assert_array_equal(result.array, found["part.png"])
        assert result.probabilities.shape == (4, *SIZE)
    with pytest.raises(MSTKDError, match="blue is an array of shape"):
        segmenter(blue=(found["part.png"], (1, 1)))


def test_prepared_2d_images_are_what_nnunet_reads(planned_2d, predict, tmp_path, capsys):
    write_2d(tmp_path / "in", "part", 1, seed=1)
    arguments = [
        "prepare",
        "-i",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "complete"),
        "-m",
        str(planned_2d),
    ]
    assert main(arguments) == 0, capsys.readouterr().err
    images = [str(tmp_path / "complete" / f"part_{channel:04d}.png") for channel in range(2)]
    data, _ = NaturalImage2DIO().read_images(images)
    assert data.shape == (2, 1, *SIZE)
    assert not data[0].any()
    assert data[1].any()


def test_colours_in_one_file_are_not_taken_for_a_modality(planned_2d, predict, tmp_path):
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).integers(1, 255, (*SIZE, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "in" / "rgb_0000.png"))
    done = predict(tmp_path / "in", tmp_path / "out", model=planned_2d)
    assert done.code == 2
    assert "rgb_0000.png is 2D with 3 value(s) per voxel, not 2D with one" in done.err


@pytest.fixture
def model_of(models, files, tmp_path):
    """The same network as ``models.labels`` for data of another file ending."""

    def make(ending: str, reader: str) -> Path:
        plans = files.plans_json() | {"image_reader_writer": reader}
        model = tmp_path / f"model{ending}"
        shutil.copytree(models.labels, model)
        (model / "plans.json").write_text(json.dumps(plans))
        (model / "dataset.json").write_text(json.dumps(files.dataset_json(ending=ending)))
        return model

    return make


@pytest.mark.parametrize(
    ("ending", "reader"), [(".nrrd", "SimpleITKIO"), (".mha", "SimpleITKIO"), (".tif", "Tiff3DIO")]
)
def test_other_formats_give_the_voxels_of_nifti(models, model_of, predict, files, tmp_path, ending, reader):
    volumes = {0: files.volume(0), 2: files.volume(2)}
    spacing = files.geometry["spacing"]
    for channel, array in volumes.items():
        files.write_volume(tmp_path / "nifti" / f"case_{channel:04d}.nii.gz", array)
        target = tmp_path / "in" / f"case_{channel:04d}{ending}"
        if ending == ".tif":
            target.parent.mkdir(exist_ok=True)
            tifffile.imwrite(target, array)
            (target.parent / "case.json").write_text(json.dumps({"spacing": spacing[::-1]}))
        else:
            files.write_volume(target, array)
    assert predict(tmp_path / "nifti", tmp_path / "expected", "-step_size", 1, model=models.labels).code == 0
    model = model_of(ending, reader)
    done = predict(tmp_path / "in", tmp_path / "out", "-step_size", 1, model=model)
    assert done.code == 0, done.err
    expected = files.read_array(tmp_path / "expected" / "case.nii.gz")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(files.read_array(tmp_path / "out" / f"case{ending}"), expected)
    names = {f"case{ending}"} | files.beside
    assert {p.name for p in (tmp_path / "out").iterdir()} == names | (
        {"case.json"} if ending == ".tif" else set()
    )

    segmenter = Segmenter(model, device="cpu", mirroring=False, step_size=1)
    images = {n: sitk.ReadImage(str(tmp_path / "nifti" / f"case_000{n}.nii.gz")) for n in volumes}
    result = segmenter(t1n=images[0], t2w=images[2])
    assert result.spacing == pytest.approx(spacing)
    np.testing.assert_array_equal(result.array, expected)


def test_the_spacing_beside_a_tif_is_prepared_too(model_of, files, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "case_0002.tif", files.volume(2))
    (tmp_path / "in" / "case.json").write_text('{"spacing": [1.2, 1.0, 0.9]}')
    model, complete = model_of(".tif", "Tiff3DIO"), tmp_path / "complete"
    assert main(["prepare", "-i", str(tmp_path / "in"), "-o", str(complete), "-m", str(model)]) == 0
    assert json.loads((complete / "case.json").read_text()) == {"spacing": [1.2, 1.0, 0.9]}
    assert len(list(complete.glob("case_000?.tif"))) == 4


def test_2d_images_can_be_evaluated_and_compared(planned_2d, tmp_path, capsys):
    """All subsets, scored as mm² and mm of one pixel, with figures and report."""
    write_2d(tmp_path / "in", "whole", 0, 1)
    write_2d(tmp_path / "in", "part", 1, seed=1)
    for seed, case in enumerate(("whole", "part")):
        labels = np.zeros(SIZE, dtype=np.uint8)
        labels[8 : 20 + seed, 10:30] = 1 + np.arange(20) % 3
        (tmp_path / "labels").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "labels" / f"{case}.png"))
    for name, flags in (("a", ["--disable_tta"]), ("b", [])):
        given = ["-m", planned_2d, "-f", "0", "-device", "cpu", "--cases", tmp_path / "in", *flags]
        given += ["--labels", tmp_path / "labels", "-o", tmp_path / name, "--disable_progress_bar"]
        assert main(["evaluate", *map(str, given)]) == 0
    table = read_evaluation(tmp_path / "a").metrics.set_index(["case", "subset", "region"])
    assert len(table) == (3 + 1) * 3
    assert table.loc[("whole", "red+blue", "NCR"), "volume_reference"] == 12 * 7
    out = tmp_path / "comparison"
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *runs, "--names", "one", "two", "-o", str(out), "--resamples", "100"]) == 0
    assert {"report.html", "figures", "means.csv"} <= {path.name for path in out.iterdir()}
    assert (out / "figures" / "qualitative.png").is_file()
