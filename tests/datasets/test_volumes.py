import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.volumes import (
    Geometry,
    check_case,
    check_header,
    geometry_of,
    image_on_grid,
    read_checked,
    write_image,
    zero_image,
)
from nnunetv2_mstkd.errors import MSTKDError

ARRAY = np.random.default_rng(0).integers(0, 1000, size=(10, 12, 14)).astype(np.int16)


@pytest.fixture(params=[".nii", ".nii.gz"])
def volume(request, tmp_path, files):
    return files.write_volume(tmp_path / f"a{request.param}", ARRAY, spacing=(1, 1, 2), origin=(0, -239, 5))


def test_a_good_file(volume):
    geometry = check_header(volume)
    assert geometry.size == (14, 12, 10)
    assert geometry.spacing == (1, 1, 2)
    assert geometry.origin == (0, -239, 5)
    image = read_checked(volume)
    assert np.array_equal(sitk.GetArrayFromImage(image), ARRAY)
    assert geometry.difference(geometry_of(image)) is None


@pytest.mark.parametrize("keep", [0, 60, 0.5, -3])
def test_truncated_files_are_refused(volume, keep):
    content = volume.read_bytes()
    volume.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(MSTKDError, match=r"truncated|not a NIfTI"):
        read_checked(volume)


def test_a_damaged_file_is_refused(tmp_path, files):
    # Large enough that the header is read before the end of the file is seen.
    array = np.random.default_rng(0).integers(0, 1000, size=(40, 40, 40)).astype(np.int16)
    path = files.write_volume(tmp_path / "a.nii.gz", array)
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF  # the checksum
    path.write_bytes(content)
    with pytest.raises(MSTKDError, match="CRC check failed"):
        read_checked(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"x" * 4000, gzip.compress(b"y" * 4000)],
    ids=["empty", "short", "text", "compressed text"],
)
def test_what_is_no_nifti_is_refused(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(MSTKDError, match="NIfTI") as error:
        check_header(path)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(MSTKDError, match="No such file"):
        check_header(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(MSTKDError, match="cannot read"):
        check_header(tmp_path / "b.nii")
    (tmp_path / "c.mha").write_text("no image")
    with pytest.raises(MSTKDError, match="cannot read"):
        check_header(tmp_path / "c.mha")


@pytest.mark.parametrize(("shape", "text"), [((2, 10, 12, 14), "14x12x10x2"), ((12, 14), "14x12")])
def test_volumes_that_are_not_3d_are_refused(tmp_path, files, shape, text):
    path = files.write_volume(tmp_path / "a.nii.gz", np.zeros(shape, np.float32))
    with pytest.raises(MSTKDError, match=rf"is {len(shape)}D \({text}\)"):
        check_header(path)


def test_several_values_per_voxel_are_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True), str(path))
    with pytest.raises(MSTKDError, match="not 3D"):
        check_header(path)


def test_a_fourth_axis_of_length_one_is_3d(tmp_path, files):
    path = files.write_volume(tmp_path / "a.nii.gz", ARRAY[None])
    assert check_header(path).size == (14, 12, 10)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused_and_counted(tmp_path, files, bad, dtype, ending):
    array = ARRAY.astype(dtype)
    array[1, 2, 3:5] = bad
    path = files.write_volume(tmp_path / f"a{ending}", array)
    check_header(path)
    with pytest.raises(MSTKDError, match="has 2 NaN or Inf"):
        read_checked(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": ARRAY[:-1]}, r"size \(14, 12, 10\) and \(14, 12, 9\)"),
        ({"spacing": (1, 1, 1.1)}, r"spacing \(1, 1, 1\) and \(1, 1, 1.1\)"),
        ({"origin": (0, 0, 3)}, r"origin \(0, 0, 0\) and \(0, 0, 3\)"),
    ],
)
def test_geometry_that_differs_names_both_files_and_the_difference(tmp_path, files, change, message):
    one = files.write_volume(tmp_path / "x-t1n.nii.gz", ARRAY)
    two = files.write_volume(tmp_path / "x-t2f.nii.gz", change.pop("array", ARRAY), **change)
    with pytest.raises(MSTKDError, match=message) as error:
        check_case({"t1n": one, "t2f": two})
    assert str(one) in str(error.value)
    assert str(two) in str(error.value)


def test_direction_that_differs():
    plain = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    turned = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert plain.difference(turned).startswith("direction")


@pytest.mark.parametrize("swap", [False, True])
def test_headers_of_either_byte_order(tmp_path, swap):
    nibabel = pytest.importorskip("nibabel")
    array = ARRAY.T.astype(np.float32)
    array[0, 0, 0] = np.nan
    header = nibabel.Nifti1Header(endianness=">" if swap else "<")
    header.set_data_dtype(np.float32)
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header=header), path)
    assert check_header(path).size == (14, 12, 10)
    with pytest.raises(MSTKDError, match="has 1 NaN"):
        read_checked(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MSTKDError, match="is truncated"):
        read_checked(path)


def test_rounding_is_no_difference(tmp_path, files):
    one = files.write_volume(tmp_path / "a.nii.gz", ARRAY, origin=(0.0, -239.0, 0.0))
    two = files.write_volume(tmp_path / "b.nii.gz", ARRAY, origin=(-0.0, -239.0004, 0.0))
    assert check_case({"t1n": one, "t2f": two}).size == (14, 12, 10)


def test_a_case_needs_an_image():
    with pytest.raises(MSTKDError, match="no images"):
        check_case({})


def test_written_images_keep_the_grid(tmp_path, volume):
    geometry = check_header(volume)
    write_image(zero_image(geometry), tmp_path / "zero.nii.gz")
    assert check_header(tmp_path / "zero.nii.gz").difference(geometry) is None
    assert not sitk.GetArrayFromImage(read_checked(tmp_path / "zero.nii.gz")).any()
    write_image(image_on_grid(ARRAY, geometry), tmp_path / "copy.nii")
    assert np.array_equal(sitk.GetArrayFromImage(read_checked(tmp_path / "copy.nii")), ARRAY)


def test_a_folder_that_is_not_there_is_a_user_error(tmp_path, volume):
    with pytest.raises(MSTKDError, match="cannot write"):
        write_image(zero_image(check_header(volume)), tmp_path / "nowhere" / "a.nii.gz")


@pytest.mark.parametrize(
    ("at", "kind", "value", "message"),
    [
        (108, "f", float("nan"), "its voxels begin at byte nan"),
        (108, "f", float("inf"), "its voxels begin at byte inf"),
        (108, "f", 1e30, "its voxels begin at byte 1"),
        (108, "f", -5.0, "its voxels begin at byte -5"),
        (72, "h", 16, "float32 voxels of 16 bits"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, files, at, kind, value, message):
    path = files.write_volume(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32))
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, at, value)
    path.write_bytes(content)
    with pytest.raises(MSTKDError, match=message):
        read_checked(path)
