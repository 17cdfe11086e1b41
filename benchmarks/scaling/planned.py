"""The patches that are planned for a GPU memory, by the plugin's planner and by nnU-Net's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from benchmarks.nnunet_folders import nnunet_folders
from benchmarks.scaling.counting import count
from nnunetv2_mstkd.plans.architecture import for_network
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.plan_dataset import plan_dataset

_STATISTICS = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
_CASES = 200  # so many that a batch is never limited by the size of the data set


@dataclass(frozen=True)
class DataSet:
    """What a planner looks at: channels, median shape in voxels (z, y, x), spacing in mm."""

    channels: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]


DATA_SETS = {
    "BraTS": DataSet(("t1n", "t1c", "t2w", "t2f"), (138, 170, 137), (1.0, 1.0, 1.0)),
    "CT": DataSet(("CT",), (200, 512, 512), (1.5, 0.8, 0.8)),
    "2D": DataSet(("gray",), (1, 1024, 1024), (999.0, 1.0, 1.0)),
    "2Dlarge": DataSet(("gray",), (1, 4096, 4096), (999.0, 1.0, 1.0)),  # more than fits: the largest patch
}


def planned_patches(data_sets: Sequence[str], memory_gb: float) -> list[dict[str, Any]]:
    """One row per data set, configuration and planner: patch, tokens, attention's share.

    nnU-Net's patch is planned for PlainConvUNet; the row counts MSTKDNet for it.
    """
    rows = []
    for number, name in enumerate(data_sets, start=1):
        data_set = DATA_SETS[name]
        with _written(f"Dataset{number:03d}_{name}", data_set) as folder_name:
            for planner, network in (("nnunetv2_mstkd", "mstkdnet"), ("nnunetv2", "plans")):
                options = PlanOptions(network=network)
                plans = plan_dataset(folder_name, options, gpu_memory_target=memory_gb, name="Benchmark")
                configurations = plans.saved.plans["configurations"]
                rows += [
                    {"data_set": name, "planner": planner, **_row(key, configuration, len(data_set.channels))}
                    for key, configuration in configurations.items()
                    if "architecture" in configuration  # a cascade's second stage is another's
                ]
                plans.saved.file.unlink()
    return rows


def _row(name: str, configuration: dict[str, Any], channels: int) -> dict[str, Any]:
    patch, architecture = configuration["patch_size"], configuration["architecture"]
    if "token_patch_size" not in architecture["arch_kwargs"]:
        architecture = for_network(architecture, patch, PlanOptions())
    return {
        "configuration": name,
        "patch": list(patch),
        "batch_size": configuration["batch_size"],
        "token_patch": architecture["arch_kwargs"]["token_patch_size"],
        **count(architecture, patch, channels, classes=2).to_json(),
    }


@contextmanager
def _written(name: str, data_set: DataSet) -> Iterator[str]:
    """The data set in nnU-Net folders that exist, and are in the environment, for the time being."""
    with nnunet_folders() as folders:
        raw, preprocessed = folders.raw / name, folders.preprocessed / name
        _write(raw, preprocessed, data_set)
        yield name


def _write(raw: Path, preprocessed: Path, data_set: DataSet) -> None:
    """One tiny case for nnU-Net's choice of a reader; everything else the planner takes from JSON."""
    (raw / "imagesTr").mkdir(parents=True)
    preprocessed.mkdir()
    numbers = range(len(data_set.channels))
    images = [str(raw / "imagesTr" / f"case_{channel:04d}.nii.gz") for channel in numbers]
    for image in images:
        sitk.WriteImage(sitk.GaussianSource(size=[4, 4, 4], mean=[2, 2, 2]), image)
    dataset = {
        "channel_names": {str(channel): data_set.channels[channel] for channel in numbers},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": _CASES,
        "file_ending": ".nii.gz",
        # Without this list nnU-Net starts twelve processes to look for the files.
        "dataset": {"case": {"images": images, "label": "labelsTr/case.nii.gz"}},
        "mstkd": {"patients": {"case": "case"}},  # the case is complete; nothing needs to be read
    }
    fingerprint = {
        "spacings": [list(data_set.spacing)] * _CASES,
        "shapes_after_crop": [list(data_set.shape)] * _CASES,
        "foreground_intensity_properties_per_channel": {
            str(channel): dict.fromkeys(_STATISTICS, 1.0) for channel in numbers
        },
        "median_relative_size_after_cropping": 0.5,
    }
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
