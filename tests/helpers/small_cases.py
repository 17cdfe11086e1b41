"""Small BraTS-like cases on disk, and nnU-Net's folders."""

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

CHANNELS = ("t1n", "t1c", "t2w", "t2f")


def write_volume(path, array, *, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    """Write an array (z, y, x); a 4D array (c, z, y, x) becomes a 4D file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((*spacing, 1.0)[: array.ndim])
    image.SetOrigin((*origin, 0.0)[: array.ndim])
    sitk.WriteImage(image, str(path))
    return path


def read_array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def segmentation_with(values, shape=(6, 7, 8), dtype=np.uint8):
    array = np.zeros(shape, dtype=dtype)
    array.ravel()[: len(values)] = values
    return array


def write_case(
    root, name, *, values=(1, 2, 3), channels=CHANNELS, join="-", ending=".nii.gz", dtype=np.uint8, seg="seg"
):
    """A case folder; ``channels`` are the words in the file names, ``values`` the labels (None: no seg)."""
    rng = np.random.default_rng(len(name))
    folder = root / name
    for channel in channels:
        array = rng.integers(1, 1000, size=(6, 7, 8)).astype(np.int16)
        write_volume(folder / f"{name}{join}{channel}{ending}", array)
    if values is not None:
        write_volume(folder / f"{name}{join}{seg}{ending}", segmentation_with(values, dtype=dtype))
    return folder


@pytest.fixture
def nnunet(tmp_path, monkeypatch):
    """nnU-Net's three folders, set in the environment."""
    folders = {}
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folders[variable.removeprefix("nnUNet_")] = tmp_path / variable
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return SimpleNamespace(**folders)


@pytest.fixture
def files():
    """The helpers above, for test modules (conftest cannot be imported)."""
    return SimpleNamespace(
        write_volume=write_volume,
        read_array=read_array,
        segmentation_with=segmentation_with,
        write_case=write_case,
        channels=CHANNELS,
    )
