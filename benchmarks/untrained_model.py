"""A tiny model with random weights and a case for it, as nnU-Net's folders hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from benchmarks.scaling.networks import planned_architecture

DATASET = "Dataset990_Untrained"
PLANS, CONFIGURATION = "nnUNetMSTKDPlans", "3d_fullres"
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
_PATCH = (32, 32, 32)
_LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}


def write_model(results: Path, trainer: str) -> Path:
    """A model folder of MSTKDNet below ``nnUNet_results``, one fold; returns its checkpoint."""
    architecture = json.loads(json.dumps(planned_architecture(_PATCH, first_features=4), default=int))
    folder = results / DATASET / f"{trainer}__{PLANS}__{CONFIGURATION}"
    (folder / "fold_0").mkdir(parents=True)
    dataset = {
        "channel_names": {str(channel): name for channel, name in enumerate(MODALITIES)},
        "labels": _LABELS,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans(architecture)))
    torch.manual_seed(0)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(MODALITIES),
        len(_LABELS),
        deep_supervision=False,
    )
    checkpoint = folder / "fold_0" / "checkpoint_final.pth"
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, checkpoint)
    return checkpoint


def plans(
    architecture: dict[str, Any], patch: tuple[int, ...] = _PATCH, batch_size: int = 2
) -> dict[str, Any]:
    """Plans of one 3D configuration at 1 mm, four z-scored sequences."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [float(n) for n in patch],
        "spacing": [1.0] * 3,
        "normalization_schemes": ["ZScoreNormalization"] * len(MODALITIES),
        "use_mask_for_norm": [True] * len(MODALITIES),
        "batch_dice": False,
        "architecture": architecture,
        **{
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
            for what in ("data", "seg", "probabilities")
        },
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
    }
    return {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": list(patch),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): {} for c in range(len(MODALITIES))},
    }


def write_case(folder: Path, name: str = "case") -> list[Path]:
    """A complete case in nnU-Net's flat layout; returns its images."""
    folder.mkdir(parents=True)
    images = []
    for channel in range(len(MODALITIES)):
        volume = np.random.default_rng(channel).normal(500, 100, _PATCH).astype(np.int16)
        images.append(folder / f"{name}_{channel:04d}.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(images[-1]))
    return images
