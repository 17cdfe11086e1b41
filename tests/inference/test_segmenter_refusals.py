"""What the Python interface refuses, and in which words: one line, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd import MSTKDError, Segmenter, Volume, segment

SHAPE = (26, 30, 28)
VOXELS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
SPACING = (0.9, 1.0, 1.2)


def _with(value, dtype=np.float32):
    array = VOXELS.astype(dtype)
    array[3, 4, 5] = value
    return array, SPACING


def _vector_image():
    return sitk.GetImageFromArray(np.zeros((*SHAPE, 3), dtype=np.float32), isVector=True)


# What is wrong -> (images by name, what the one line says).
BAD_IMAGES = {
    "nothing": ({}, "no modality at all; give an image for at least one of t1n, t1c, t2w, t2f"),
    "only None": ({"t1c": None, "t2f": None}, "no modality at all"),
    "unknown name": ({"adc": (VOXELS, SPACING)}, "unknown modality 'adc'; this data set has t1n, t1c"),
    "unknown name of nothing": ({"adc": None, "t1c": (VOXELS, SPACING)}, "unknown modality 'adc'"),
    "twice": (
        {"t1gd": (VOXELS, SPACING), "t1c": (VOXELS, SPACING)}, "t1c is given twice, the second time as 't1c'"
    ),
    "array without spacing": ({"t1c": VOXELS}, "t1c is a ndarray; give a path, a SimpleITK image, a Volume"),
    "a number": ({"t1c": 3}, "t1c is a int; give a path"),
    "two axes": ({"t1c": (VOXELS[0], SPACING)}, r"t1c is an array of shape \(30, 28\); give one volume"),
    "four axes": ({"t1c": (VOXELS[None], SPACING)}, r"shape \(1, 26, 30, 28\)"),
    "no voxels": ({"t1c": (VOXELS[:0], SPACING)}, r"shape \(0, 30, 28\)"),
    "complex": ({"t1c": (VOXELS * 1j, SPACING)}, "type complex64; give real numbers"),
    "text": ({"t1c": (VOXELS.astype(str), SPACING)}, "give real numbers"),
    "two spacings": ({"t1c": (VOXELS, (1, 1))}, r"t1c has the spacing \(1, 1\); give 3 numbers"),
    "no spacing": ({"t1c": (VOXELS, None)}, "t1c has the spacing None; give 3 numbers"),
    "NaN spacing": ({"t1c": (VOXELS, (1, 1, np.nan))}, "give 3 numbers"),
    "negative spacing": ({"t1c": (VOXELS, (1, 1, -1))}, "three lengths in mm above 0"),
    "flat direction": (
        {"t1c": Volume(VOXELS, SPACING, direction=[0] * 9)}, "SimpleITK does not take the array given for t1c"
    ),
    "NaN": ({"t1c": _with(np.nan)}, "the image given for t1c has 1 NaN or Inf voxels"),
    "beyond float32": ({"t1c": _with(1e300, np.float64)}, "1 NaN or Inf voxels"),
    "constant": ({"t1c": (np.ones(SHAPE), SPACING)}, "no modality at all: t1c without any contrast"),
    "another size": (
        {"t1c": (VOXELS, SPACING), "t2f": (VOXELS[1:], SPACING)},
        r"the image given for t1c and the image given for t2f differ in size \(28, 30, 26\)",
    ),
    "another origin": (
        {"t1c": (VOXELS, SPACING), "t2f": Volume(VOXELS, SPACING, origin=(5, 0, 0))}, "differ in origin"
    ),
    "vector image": ({"t1c": _vector_image()}, r"t1c is a 3D image with 3 value\(s\) per voxel"),
    "2D image": ({"t1c": sitk.Image(8, 8, sitk.sitkFloat32)}, "t1c is a 2D image"),
    "no file": ({"t1c": "nowhere/t1c.nii.gz"}, "cannot read nowhere/t1c.nii.gz: No such file or directory"),
    "no image": ({"t1c": __file__}, "cannot read"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fast(models):
    return Segmenter(models.labels, device="cpu", mirroring=False, step_size=1)


@pytest.fixture
def real_file(brats):
    return brats / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1c.nii.gz"


class TestImages:
    @pytest.mark.parametrize("what", BAD_IMAGES)
    def test_one_line_and_nothing_written(self, fast, tmp_path, what):
        images, message = BAD_IMAGES[what]
        with pytest.raises(MSTKDError, match=message) as caught:
            fast(images, output=tmp_path / "out.nii.gz")
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_and_an_image_on_different_grids_are_both_named(self, fast, real_file):
        with pytest.raises(MSTKDError, match=f"{real_file} and the image given for t2f differ in origin"):
            fast(t1c=real_file, t2f=(VOXELS, SPACING))

    def test_a_truncated_file(self, fast, real_file, tmp_path):
        path = tmp_path / "t1c.nii.gz"
        path.write_bytes(real_file.read_bytes()[:3000])
        with pytest.raises(MSTKDError, match="is truncated or damaged"):
            fast(t1c=path)

    @pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO"])
    def test_nan_is_seen_before_a_reader_hides_it(self, files, tmp_path, reader):
        plans = {**files.plans_json(), "image_reader_writer": reader}
        model = files.write_model(tmp_path / "model", files.dataset_json(), plans)
        with pytest.raises(MSTKDError, match="1 NaN or Inf voxels"):
            segment(t1c=_with(np.nan), model=model, device="cpu")


class TestOptions:
    @pytest.mark.parametrize("name", ["out.png", "out", ".nii.gz"])
    def test_output_names(self, fast, tmp_path, name):
        with pytest.raises(MSTKDError, match=r"is no file name that ends in \.nii\.gz or"):
            fast(t1c=(VOXELS, SPACING), output=tmp_path / name)

    def test_an_output_folder_that_cannot_be(self, fast, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(MSTKDError, match="cannot write into"):
            fast(t1c=(VOXELS, SPACING), output=tmp_path / "file" / "out.nii.gz")

    def test_a_full_disk(self, fast, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("nnunetv2_mstkd.inference.segmenter.write_segmentation", full)
        with pytest.raises(MSTKDError, match=r"cannot write .*out\.nii\.gz: No space left on device"):
            fast(t1c=(VOXELS, SPACING), output=tmp_path / "out.nii.gz")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"step_size": 0}, r"step_size 0 is not in \(0, 1\]"),
            ({"device": "tpu"}, "unknown device 'tpu'"),
            ({"device": "xla:0"}, "unknown device 'xla:0'"),
            ({"device": "cpu:3"}, "device 'cpu:3' is not there: this process sees 1 of the kind"),
            ({"checkpoint": "checkpoint_best.pth"}, "has no checkpoint_best.pth"),
        ],
    )
    def test_options(self, models, options, message):
        with pytest.raises(MSTKDError, match=message):
            Segmenter(models.labels, **{"device": "cpu", **options})

    def test_a_folder_that_is_no_model(self, tmp_path):
        with pytest.raises(MSTKDError, match=r"has no dataset\.json"):
            Segmenter(tmp_path)
