"""Plans to measure with: nnU-Net's own for a patch, and this package's for the same or its own patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunetv2_mstkd.plans.architecture import for_network
from nnunetv2_mstkd.plans.options import PlanOptions

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
DATASET = "Dataset999_Benchmark"
CONFIGURATION = "3d_fullres"
DATA = f"nnUNetPlans_{CONFIGURATION}"  # folder of the preprocessed data
# nnU-Net's planner for BraTS on an 8 GB card.
STOCK_PATCH = (128, 160, 112)
# nnU-Net's limits of features, by the number of axes.
_WIDEST = {2: 512, 3: 320}
_STATISTICS = {"mean": 0.0, "std": 1.0, "percentile_00_5": -3.0, "percentile_99_5": 3.0}
_SMALLEST_EDGE, _MOST_POOLINGS = 4, 999999


def dataset_json() -> dict[str, Any]:
    """Of a BraTS data set with region heads."""
    return {
        "channel_names": {str(i): name for i, name in enumerate(MODALITIES)},
        "labels": REGIONS,
        "regions_class_order": [2, 1, 3],
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def unet(
    features: Sequence[int],
    strides: Sequence[Sequence[int]] | None = None,
    kernels: Sequence[Sequence[int]] | None = None,
    *,
    axes: int = 3,
    convolutions: int = 2,
    blocks: Sequence[int] | None = None,
) -> dict[str, Any]:
    """A plans file's entry of nnU-Net's own network.

    Args:
        features: of each stage.
        strides: of each stage, per axis; by default halves every axis from the second stage on.
        kernels: likewise; by default 3 everywhere.
        axes: 2 or 3, where no strides say so.
        convolutions: of each stage of encoder and decoder.
        blocks: residual blocks of each stage of the encoder: ResidualEncoderUNet instead of PlainConvUNet.
    """
    stages = len(features)
    strides = strides or [[1] * axes] + [[2] * axes] * (stages - 1)
    axes = len(strides[0])
    depth = {"n_blocks_per_stage": list(blocks)} if blocks else {"n_conv_per_stage": [convolutions] * stages}
    network = "ResidualEncoderUNet" if blocks else "PlainConvUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [list(map(int, kernel)) for kernel in kernels or [[3] * axes] * stages],
            "strides": [list(map(int, stride)) for stride in strides],
            **depth,
            "n_conv_per_stage_decoder": [convolutions] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def stock_architecture(patch_size: Sequence[int], first_features: int = 32) -> dict[str, Any]:
    """PlainConvUNet as nnU-Net plans it for a patch of voxels that are as long as wide, 2D or 3D."""
    axes = len(patch_size)
    _, strides, kernels, _, _ = get_pool_and_conv_props(
        (1.0,) * axes, patch_size, _SMALLEST_EDGE, _MOST_POOLINGS
    )
    features = [min(_WIDEST[axes], first_features * 2**i) for i in range(len(strides))]
    return unet(features, strides, kernels)


def mstkd_architecture(
    patch_size: Sequence[int],
    preset: str = "nnunet",
    *,
    token_patch: int | None = None,
    first_features: int = 16,
) -> dict[str, Any]:
    """MSTKDNet as ``nnUNetv2_mstkd plan`` makes it of the same: 16 to 128 features in four stages.

    Args:
        patch_size: voxels per axis.
        preset: ``nnunet`` or ``official``.
        token_patch: bottleneck voxels per token and axis; ``None`` is what the planner takes.
        first_features: channels of the first stage; the preset's are 16.
    """
    options = PlanOptions(preset=preset, token_patch=None if token_patch is None else (token_patch,))
    return for_network(stock_architecture(patch_size, first_features), patch_size, options)


def plans(
    architecture: Mapping[str, Any],
    patch_size: Sequence[int],
    batch_size: int,
    *,
    name: str = "nnUNetPlans",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A plans file with one configuration, at 1 mm, z-scored.

    Args:
        architecture: an entry of a plans file.
        patch_size: voxels per axis.
        batch_size: patches.
        name: of the plans.
        settings: the ``"mstkd"`` dict.
    """
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    kinds = {"data": {}, "seg": {"is_seg": True, "order": 1}, "probabilities": {"order": 1}}
    configuration = {
        "data_identifier": DATA,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": [float(n) for n in patch_size],
        "spacing": [1.0] * len(patch_size),
        "normalization_schemes": ["ZScoreNormalization"] * len(MODALITIES),
        "use_mask_for_norm": [True] * len(MODALITIES),
        "batch_dice": False,
        "architecture": dict(architecture),
        **{f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in kinds},
        **{f"resampling_fn_{kind}_kwargs": {**resampling, **other} for kind, other in kinds.items()},
        **({"mstkd": dict(settings)} if settings else {}),
    }
    return {
        "dataset_name": DATASET,
        "plans_name": name,
        "original_median_spacing_after_transp": [1.0] * 3,
        "original_median_shape_after_transp": list(patch_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(channel): _STATISTICS for channel in range(len(MODALITIES))
        },
    }
