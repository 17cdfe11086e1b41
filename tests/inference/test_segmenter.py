"""The Python interface: equal to the command, whatever an image is given as."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunetv2_mstkd import MSTKDError, Segmenter, Volume, segment
from nnunetv2_mstkd.inference import segmenter as segmenter_module

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
GRID = ("Size", "Spacing", "Origin", "Direction")


@pytest.fixture(scope="module")
def commanded(models, brats, tmp_path_factory):
    """The real command, in a process of its own: two folds, regions, mirroring."""
    output = tmp_path_factory.mktemp("commanded")
    command = [sys.executable, "-m", "nnunetv2_mstkd.cli", "predict", "-i", brats, "-o", output]
    done = subprocess.run(
        [*command, "-m", models.regions, "-device", "cpu", "--save_probabilities"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def segmenter(models):
    return Segmenter(models.regions, device="cpu")


@pytest.fixture(scope="module")
def fast(models):
    """No mirroring and one tile after the other: for what does not depend on either."""
    return Segmenter(models.labels, device="cpu", mirroring=False, step_size=1)


def paths_of(brats, case):
    files = (brats / case).glob("*.nii.gz")
    return {path.name.removesuffix(".nii.gz").rpartition("-")[2]: path for path in files}


def as_images(paths):
    return {name: sitk.ReadImage(str(path)) for name, path in paths.items()}


def as_arrays(paths):
    volumes = {}
    for name, image in as_images(paths).items():
        array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()
        volumes[name] = Volume(array, spacing, image.GetOrigin(), image.GetDirection())
    return volumes


def mixed(paths):
    return {**as_arrays(paths), "t1c": paths["t1c"], "t2f": as_images(paths)["t2f"]}


def assert_same_grid(first, second):
    for what in GRID:
        np.testing.assert_allclose(*(getattr(i, f"Get{what}")() for i in (first, second)), atol=1e-6)


def as_recorded(result):
    """What ``modalities.json`` has of a case of a model with two folds and without ``trust.json``."""
    agreement = {region: round(dice, 4) for region, dice in result.agreement.items()}
    return {**result.use.to_json(), "fold_agreement": agreement}


class TestEqualToTheCommand:
    @pytest.mark.parametrize("case", [WHOLE, PARTIAL])
    @pytest.mark.parametrize("kind", [dict, as_images, as_arrays, mixed])
    def test_voxels_geometry_and_modalities(self, segmenter, brats, commanded, case, kind):
        result = segmenter(**kind(paths_of(brats, case)))
        expected = sitk.ReadImage(str(commanded / f"{case}.nii.gz"))
        np.testing.assert_array_equal(result.array, sitk.GetArrayFromImage(expected))
        assert len(np.unique(result.array)) > 1, "nothing was segmented"
        assert_same_grid(result.to_image(), expected)
        record = json.loads((commanded / "modalities.json").read_text())[case]
        assert as_recorded(result) == record
        assert list(result.used) == record["used"]

    def test_probabilities(self, segmenter, brats, commanded):
        result = segmenter(paths_of(brats, PARTIAL), probabilities=True)
        expected = np.load(commanded / f"{PARTIAL}.npz")["probabilities"]
        np.testing.assert_array_equal(result.probabilities, expected)
        assert result.heads == ("WT", "TC", "ET")

    def test_a_spacing_without_origin_and_direction_gives_the_same_voxels(self, segmenter, brats, commanded):
        pairs = {name: (v.array, v.spacing) for name, v in as_arrays(paths_of(brats, PARTIAL)).items()}
        result = segmenter(pairs)
        expected = sitk.ReadImage(str(commanded / f"{PARTIAL}.nii.gz"))
        np.testing.assert_array_equal(result.array, sitk.GetArrayFromImage(expected))
        assert (result.origin, result.spacing) == ((0, 0, 0), expected.GetSpacing())

    def test_the_spacing_is_in_the_order_x_y_z(self, segmenter, brats, commanded):
        turned = {name: (v.array, v.spacing[::-1]) for name, v in as_arrays(paths_of(brats, PARTIAL)).items()}
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(commanded / f"{PARTIAL}.nii.gz")))
        assert (segmenter(turned).array != expected).any()

    def test_what_is_written(self, segmenter, brats, commanded, tmp_path):
        output = tmp_path / "new" / f"{PARTIAL}.nii.gz"
        result = segmenter(**as_arrays(paths_of(brats, PARTIAL)), output=output)
        unzipped = [gzip.decompress(path.read_bytes()) for path in (output, commanded / output.name)]
        assert unzipped[0] == unzipped[1]
        assert {p.name for p in output.parent.iterdir()} == {output.name, "modalities.json"}
        record = json.loads((output.parent / "modalities.json").read_text())
        assert record == {PARTIAL: as_recorded(result)}

    def test_segment_takes_the_options_of_segmenter_and_call(self, models, brats, tmp_path):
        paths = paths_of(brats, PARTIAL)
        options = {"folds": 1, "mirroring": False, "step_size": 1.0}
        one = segment(**paths, model=models.regions, device="cpu", output=tmp_path / "a.nii.gz", **options)
        as_text = {k: str(v) for k, v in paths.items()}
        two = Segmenter(str(models.regions), device=torch.device("cpu"), **options)(as_text)
        np.testing.assert_array_equal(one.array, two.array)
        assert_same_grid(sitk.ReadImage(str(tmp_path / "a.nii.gz")), two.to_image())
        other_fold = Segmenter(models.regions, device="cpu", **{**options, "folds": [0]})(**paths)
        assert (other_fold.array != two.array).any()


class TestAbsence:
    def test_none_is_left_out_and_aliases_are_understood(self, fast, brats):
        paths = paths_of(brats, PARTIAL)
        expected = fast(t1c=paths["t1c"], t2f=paths["t2f"])
        result = fast(t1n=None, t1gd=paths["t1c"], t2w=None, FLAIR=paths["t2f"])
        np.testing.assert_array_equal(result.array, expected.array)
        assert (result.used, result.absent) == (("t1c", "t2f"), ("t1n", "t2w"))

    def test_a_constant_volume_counts_as_absent(self, fast, brats, files):
        volumes = as_arrays(paths_of(brats, PARTIAL))
        flat = Volume(np.full(files.shape, 7.5), **{k: files.geometry[k] for k in files.geometry})
        result = fast(**volumes, t2w=flat)
        np.testing.assert_array_equal(result.array, fast(**volumes).array)
        assert result.use.constant == ("t2w",)
        assert result.absent == ("t1n", "t2w")

    def test_a_model_that_was_not_trained_for_it_warns_once(self, models, brats, caplog):
        stock = Segmenter(models.labels, device="cpu", mirroring=False, step_size=1)
        for _ in range(2):
            stock(paths_of(brats, PARTIAL))
        assert [m[:27] for m in caplog.messages] == ["1 case(s) lack modalities, "]

    def test_names_that_are_no_identifiers(self, files, tmp_path):
        modalities = ("ADC map", "T2*", "model")
        model = files.write_model(
            tmp_path / "model", files.dataset_json(modalities), files.plans_json(modalities)
        )
        volume = Volume(files.volume(3), **files.geometry)
        result = segment({"adc map": volume, "model": volume, "T2*": None}, model=model, device="cpu")
        assert (result.used, result.absent) == (("ADC map", "model"), ("T2*",))


class TestResult:
    def test_masks_of_regions_and_labels(self, segmenter, fast, brats):
        result = segmenter(paths_of(brats, WHOLE))
        np.testing.assert_array_equal(result.mask("TC"), np.isin(result.array, (1, 3)))
        assert result.labels == {"background": (0,), "WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
        result = fast(paths_of(brats, WHOLE), probabilities=True)
        assert result.heads == ("background", "NCR", "ED", "ET")
        np.testing.assert_array_equal(result.probabilities.argmax(0) == 2, result.mask("ED"))
        with pytest.raises(MSTKDError, match="unknown label 'WT'; this model has background, NCR, ED, ET"):
            result.mask("WT")

    def test_several_threads_give_what_one_gives(self, fast, brats):
        jobs = [paths_of(brats, WHOLE), paths_of(brats, PARTIAL)] * 3
        alone = [fast(job).array for job in jobs[:2]] * 3
        with ThreadPoolExecutor(6) as pool:
            together = [result.array for result in pool.map(fast, jobs)]
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))

    def test_the_network_works_for_one_call_at_a_time(self, fast, brats, monkeypatch):
        logits, inside, most = fast._predictor.logits, [], []

        def watched(case):
            inside.append(case)
            most.append(len(inside))
            sleep(0.02)  # long enough for the others to come in, if they could
            try:
                return logits(case)
            finally:
                inside.pop()

        monkeypatch.setattr(fast._predictor, "logits", watched)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(fast, [paths_of(brats, PARTIAL)] * 4))
        assert most == [1] * 4

    def test_models_can_be_loaded_side_by_side(self, models, capsys):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: Segmenter(models.labels, device="cpu"), range(8)))
        print("still there")
        assert capsys.readouterr().out == "still there\n"

    def test_the_given_image_is_not_changed(self, fast, brats):
        images, before = (as_images(paths_of(brats, WHOLE)) for _ in range(2))
        fast(images)
        for name, image in images.items():
            assert sitk.Hash(image) == sitk.Hash(before[name])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">i2", "float16", "float64", "longdouble"])
def test_arrays_of_any_real_type_and_memory_layout(fast, files, dtype):
    values = (files.volume(2) > 400).astype(np.float32) * 1
    expected = fast(t1c=(values, files.geometry["spacing"])).array
    given = np.asfortranarray(values.astype(dtype))
    np.testing.assert_array_equal(fast(t1c=(given, files.geometry["spacing"])).array, expected)


READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]


class TestOtherReaders:
    @pytest.mark.parametrize("reader", READERS)
    def test_images_give_what_files_give(self, reader, files, brats, tmp_path):
        plans = {**files.plans_json(), "image_reader_writer": reader}
        model = files.write_model(tmp_path / "model", files.dataset_json(), plans)
        segmenter = Segmenter(model, device="cpu", mirroring=False, step_size=1)
        paths = paths_of(brats, PARTIAL)
        written = segmenter(**paths, output=tmp_path / "out.nii.gz")
        in_memory = segmenter(**as_arrays(paths))
        expected = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
        for result in (written, in_memory):
            np.testing.assert_array_equal(result.array, sitk.GetArrayFromImage(expected))
            assert_same_grid(result.to_image(), expected)
            assert_same_grid(result.to_image(), sitk.ReadImage(str(paths["t1c"])))

    def test_probabilities_that_cannot_be_turned_back_are_refused(self, files, brats, tmp_path):
        plans = {**files.plans_json(), "image_reader_writer": "NibabelIOWithReorient"}
        model = files.write_model(tmp_path / "model", files.dataset_json(), plans)
        with pytest.raises(MSTKDError, match="NibabelIOWithReorient of this model turns the images"):
            segment(**paths_of(brats, PARTIAL), model=model, device="cpu", probabilities=True)


def test_a_cascade_takes_the_previous_result(files, fast, brats, tmp_path):
    model = files.write_model(tmp_path / "model", files.dataset_json(), files.plans_json(cascade=True))
    cascade = Segmenter(model, device="cpu", mirroring=False, step_size=1)
    paths = paths_of(brats, PARTIAL)
    with pytest.raises(MSTKDError, match="refines segmentations of 3d_lowres: segment with that first"):
        cascade(**paths)
    low = fast(**paths, output=tmp_path / "low.nii.gz")
    results = [cascade(**paths, previous_stage=p) for p in (low.to_image(), tmp_path / "low.nii.gz")]
    np.testing.assert_array_equal(results[0].array, results[1].array)
    nothing = sitk.Image(low.to_image()) * 0
    assert (cascade(**paths, previous_stage=nothing).array != results[0].array).any()
    with pytest.raises(MSTKDError, match="this model has no previous stage"):
        fast(**paths, previous_stage=nothing)


def test_the_default_device_is_cuda_where_there_is_one(monkeypatch, models):
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(segmenter_module.torch.cuda, "is_available", lambda answer=available: answer)
        assert segmenter_module.default_device() == device
    assert Segmenter(models.labels).device == "cpu"


class TestImport:
    def test_is_light(self):
        code = (
            "import sys, nnunetv2_mstkd; from nnunetv2_mstkd import MSTKDError;"
            "heavy = {'torch', 'SimpleITK', 'numpy', 'nnunetv2'};"
            "print(nnunetv2_mstkd.__version__, heavy & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith(" set()\n")

    def test_all_names_exist_and_others_do_not(self):
        import nnunetv2_mstkd

        assert set(nnunetv2_mstkd.__all__) <= set(dir(nnunetv2_mstkd))
        for name in nnunetv2_mstkd.__all__:
            assert getattr(nnunetv2_mstkd, name) is not None
        with pytest.raises(AttributeError, match="has no attribute 'segmnet'"):
            nnunetv2_mstkd.segmnet  # noqa: B018
