"""Data sets as nnU-Net's planner sees them: fingerprint and dataset.json, one tiny image for the reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import SimpleITK as sitk

_STATISTICS = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
MakeDataset = Callable[..., Path]


def _write_dataset(
    root: Path,
    name: str,
    channels: Sequence[str],
    shape: Sequence[int],
    spacing: Sequence[float],
    cases: int,
    labels: dict | None = None,
) -> Path:
    raw, preprocessed = root / "nnUNet_raw" / name, root / "nnUNet_preprocessed" / name
    (raw / "imagesTr").mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    images = [str(raw / "imagesTr" / f"case_{channel:04d}.nii.gz") for channel in range(len(channels))]
    for image in images:
        sitk.WriteImage(sitk.GaussianSource(size=[4, 4, 4], mean=[2, 2, 2]), image)
    dataset_json = {
        "channel_names": {str(index): channel for index, channel in enumerate(channels)},
        "labels": labels or {"background": 0, "lesion": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        # Without this list nnU-Net starts twelve processes to look for the files.
        "dataset": {"case": {"images": images, "label": "labelsTr/case.nii.gz"}},
    }
    fingerprint = {
        "spacings": [list(spacing)] * cases,
        "shapes_after_crop": [list(shape)] * cases,
        "foreground_intensity_properties_per_channel": {
            str(index): dict.fromkeys(_STATISTICS, 1.0) for index in range(len(channels))
        },
        "median_relative_size_after_cropping": 0.3,
    }
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return preprocessed


@pytest.fixture
def make_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeDataset:
    """Write a data set below a fresh nnUNet_raw and nnUNet_preprocessed; returns the preprocessed folder."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")

    def make(*args: object, **kwargs: object) -> Path:
        return _write_dataset(tmp_path, *args, **kwargs)

    return make


@pytest.fixture
def brats(make_dataset: MakeDataset) -> Path:
    """Four sequences, 1 mm, the median size of a BraTS brain after cropping, three regions."""
    labels = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    channels = ("t1n", "t1c", "t2w", "t2f")
    folder = make_dataset("Dataset226_Brats", channels, (140, 171, 137), (1, 1, 1), 20, labels)
    raw = folder.parents[1] / "nnUNet_raw" / folder.name / "dataset.json"
    raw.write_text(json.dumps({**json.loads(raw.read_text()), "regions_class_order": [2, 1, 3]}))
    return folder


@pytest.fixture
def prostate(make_dataset: MakeDataset) -> Path:
    """Two sequences, thick slices."""
    return make_dataset("Dataset005_Prostate", ("T2", "ADC"), (20, 320, 320), (3.6, 0.625, 0.625), 32)


@pytest.fixture
def slices(make_dataset: MakeDataset) -> Path:
    """2D images as nnU-Net stores them: one slice, a spacing that stands for none."""
    return make_dataset("Dataset007_Slices", ("gray",), (1, 500, 600), (999, 1, 1), 100)


@pytest.fixture
def large(make_dataset: MakeDataset) -> Path:
    """Images so large that nnU-Net plans a cascade."""
    return make_dataset("Dataset009_Large", ("CT",), (300, 512, 512), (1, 0.8, 0.8), 30)
