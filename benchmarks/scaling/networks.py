"""The networks of the benchmark: what the plugin's planner would make of a patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunetv2_mstkd.plans.architecture import for_network
from nnunetv2_mstkd.plans.options import PlanOptions

CLASSES = 3  # BraTS regions
_SMALLEST_EDGE = 4  # nnU-Net's UNet_featuremap_min_edge_length
_UNLIMITED = 999999


@dataclass(frozen=True)
class Configuration:
    """One network and its input.

    Attributes:
        patch: voxels per axis, 2 or 3 axes.
        modalities: input channels.
        token_patch: bottleneck voxels per token and axis; ``None`` is what the planner takes.
    """

    patch: tuple[int, ...]
    modalities: int = 4
    token_patch: int | None = None

    @property
    def architecture(self) -> dict[str, Any]:
        """The ``architecture`` entry of its plans."""
        return planned_architecture(self.patch, self.token_patch)


def planned_architecture(
    patch: Sequence[int], token_patch: int | None = None, *, first_features: int = 16
) -> dict[str, Any]:
    """The preset ``nnunet`` for a patch of voxels that are as long as wide.

    Args:
        patch: voxels per axis.
        token_patch: bottleneck voxels per token and axis; ``None`` is what the planner takes.
        first_features: channels of the first stage; the preset's are 16.
    """
    options = PlanOptions(token_patch=None if token_patch is None else (token_patch,))
    return for_network(_stock(patch, first_features), patch, options)


def _stock(patch: Sequence[int], first_features: int) -> dict[str, Any]:
    """PlainConvUNet as nnU-Net's rules make it."""
    axes = len(patch)
    _, strides, kernels, _, _ = get_pool_and_conv_props([1] * axes, patch, _SMALLEST_EDGE, _UNLIMITED)
    stages, widest = len(strides), 512 if axes == 2 else 320
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": tuple(min(widest, first_features * 2**stage) for stage in range(stages)),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": kernels,
            "strides": strides,
            "n_conv_per_stage": (2,) * stages,
            "n_conv_per_stage_decoder": (2,) * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ("conv_op", "norm_op", "dropout_op", "nonlin"),
    }
