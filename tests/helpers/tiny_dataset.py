"""A tiny preprocessed data set, written as nnU-Net's preprocessing leaves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.plans import unet

DATASET = "Dataset990_Tiny"
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
PATCH = (16, 16, 16)
RESIDUAL = False  # plans with a residual encoder
CASES = tuple(f"case_{i}" for i in range(4))


def dataset_json(modalities=MODALITIES, regions=True) -> dict:
    content = {
        "channel_names": {str(i): m for i, m in enumerate(modalities)},
        "labels": REGIONS if regions else LABELS,
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    return content | ({"regions_class_order": [2, 1, 3]} if regions else {})


def plans(modalities=MODALITIES, settings=None, patch=PATCH) -> dict:
    dim, channels = len(patch), len(modalities)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{dim}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [24.0] * dim,
        "spacing": [1.0] * dim,
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] * channels,
        "batch_dice": False,
        "architecture": unet([4, 8, 16], axes=dim, blocks=[2] * 3 if RESIDUAL else None),
        **{
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
            for what in ("data", "seg", "probabilities")
        },
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
    }
    if settings is not None:
        configuration["mstkd"] = settings
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": [24] * 3,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"tiny": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }


def write_case(
    folder: Path, name: str, channels: int, seed: int, constants: Mapping[int, float] | None = None
) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    rng = np.random.default_rng(seed)
    seg = np.zeros((1, 24, 24, 24), dtype=np.int16)
    seg[0, 6:18, 6:18, 6:18] = 2
    seg[0, 8:14, 8:14, 8:14] = 3
    seg[0, 10:12, 10:12, 10:12] = 1
    data = rng.normal(size=(channels, 24, 24, 24)).astype(np.float32)
    for channel in range(channels):
        data[channel] += seg[0] == 1 + channel % 3
    for channel, value in (constants or {}).items():
        data[channel] = value
    locations = {label: np.argwhere(np.isin(seg, [label])) for label in (1, 2, 3)} | {
        key: np.argwhere(np.isin(seg, key)) for key in ((1, 2, 3), (1, 3))
    }
    properties = {"class_locations": locations, "spacing": [1.0, 1.0, 1.0]}
    block = (1, 24, 24, 24)
    for old in folder.glob(f"{name}*.b2nd"):
        old.unlink()
    nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / name), chunks=block, blocks=block)


def write_dataset(root: Path) -> Path:
    """Folder with ``raw``, ``preprocessed`` and ``results``; the preprocessed data set is complete."""
    for name in ("raw", "preprocessed", "results"):
        (root / name).mkdir(exist_ok=True)
    base = root / "preprocessed" / DATASET
    for dim in (2, 3):
        (base / f"nnUNetPlans_{dim}d").mkdir(parents=True)
        for seed, case in enumerate(CASES):
            write_case(base / f"nnUNetPlans_{dim}d", case, len(MODALITIES), seed)
    (base / "splits_final.json").write_text(json.dumps([{"train": CASES[:3], "val": CASES[3:]}]))
    (base / "dataset_fingerprint.json").write_text("{}")
    return root
