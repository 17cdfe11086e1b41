"""The network that a plans file names, and the presets' wishes about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS
from nnunetv2_mstkd.methods.mstkd.sizes import (
    CLASS_KWARGS,
    bottleneck_size,
    mstkdnet_kwargs,
    thrifty_token_patch,
)
from nnunetv2_mstkd.methods.mstkd.transformer import TOKEN_PATCH_SIZES
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.topology import truncate


@dataclass(frozen=True)
class Preset:
    """What a network wants from the planner where the user asks for nothing else.

    Attributes:
        base_features: channels of the first stage; ``None`` is nnU-Net's 32.
        max_stages: resolution stages; ``None`` is as many as nnU-Net makes.
        batch_size: ``None`` is what fits.
        largest_patch: upper limit of a 3D patch in array order (z, y, x); ``None`` is none.
        settings: entries of the ``"mstkd"`` dict that belong to the preset.
    """

    base_features: int | None = None
    max_stages: int | None = None
    batch_size: int | None = None
    largest_patch: tuple[int, ...] | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, options: PlanOptions) -> Preset:
        """The preset that ``options`` name."""
        return _PRESETS[options.preset] if options.network == "mstkdnet" else cls()

    def clip(self, median_shape: np.ndarray) -> np.ndarray:
        """``median_shape`` (voxels per axis) where the patch may not be larger than the preset's."""
        if self.largest_patch is None or len(median_shape) != len(self.largest_patch):
            return median_shape
        return np.minimum(median_shape, self.largest_patch)


# Published widths 16, 32, 64, 128 and four stages (released models/MSTKDNet.py), the tokens at a stride of 8.
_PRESETS = {
    "nnunet": Preset(base_features=16, max_stages=4),
    # Published patch 160×192×128 in (x, y, z), batch 1, no deep supervision (docs/fidelity.md).
    "official": Preset(
        base_features=16,
        max_stages=4,
        batch_size=1,
        largest_patch=(128, 192, 160),
        settings=(("enable_deep_supervision", False),),
    ),
}


def stage_limit(options: PlanOptions) -> int | None:
    """Largest number of resolution stages; ``None`` is as many as nnU-Net makes."""
    return options.max_stages or Preset.of(options).max_stages


def for_network(
    architecture: Mapping[str, Any], patch_size: Sequence[int], options: PlanOptions
) -> dict[str, Any]:
    """The ``architecture`` entry of a nnU-Net plan, turned into that of the network that ``options`` name."""
    plain = truncate(architecture["arch_kwargs"], stage_limit(options))
    if options.network == "plans":
        return {**architecture, "arch_kwargs": plain}
    patch, token_patch = [int(n) for n in patch_size], options.token_patch_for(len(patch_size))
    kwargs = mstkdnet_kwargs(plain, patch, preset=options.preset, token_patch=token_patch)
    if token_patch is None and options.preset == "nnunet":
        kwargs["token_patch_size"] = thrifty_token_patch(kwargs["token_patch_size"], patch, kwargs["strides"])
    _check_tokens(options, kwargs)
    return {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": kwargs,
        "_kw_requires_import": list(CLASS_KWARGS),
    }


def _check_tokens(options: PlanOptions, kwargs: Mapping[str, Any]) -> None:
    """Refuse sizes with which one token holds the whole bottleneck: there is nothing to attend to then."""
    patch, token_patch = kwargs["patch_size"], kwargs["token_patch_size"]
    bottleneck = bottleneck_size(patch, kwargs["strides"])
    if any(voxels > token for voxels, token in zip(bottleneck, token_patch, strict=True)):
        return
    one = f"one token of the bottleneck of {_axes(bottleneck)} voxels (patch {_axes(patch)})"
    if options.token_patch_for(len(patch)) is not None:
        possible = ", ".join(str(size) for size in TOKEN_PATCH_SIZES if size < max(bottleneck))
        given = " ".join(map(str, options.token_patch or ()))
        raise MSTKDError(f"--token-patch {given} leaves {one}; possible: {possible}")
    if options.patch_size is not None:
        raise MSTKDError(f"--patch-size {' '.join(map(str, patch))} leaves {one}; give a larger one")


def _axes(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def at_patch(architecture: Mapping[str, Any], patch_size: Sequence[int]) -> dict[str, Any]:
    """The same network in plans with this patch: MSTKDNet's entry states it, and no weight depends on it."""
    if architecture["network_class_name"] != NETWORK_CLASS:
        return dict(architecture)
    patch = [int(n) for n in patch_size]
    return {**architecture, "arch_kwargs": {**architecture["arch_kwargs"], "patch_size": patch}}


def planned_network(
    options: PlanOptions, configuration: ConfigurationManager, input_channels: int, num_classes: int
) -> nn.Module:
    """The network that training will build for a planned configuration, without storage for its weights."""
    if options.method is None:
        return build_on_meta(configuration.configuration["architecture"], input_channels, num_classes)
    with torch.device("meta"):
        network: nn.Module = options.method.build_network_architecture(
            None, configuration, input_channels, num_classes, False
        )
    return network


def build_on_meta(architecture: Mapping[str, Any], input_channels: int, num_classes: int) -> nn.Module:
    """The network without storage for its weights: shapes and counts only, in milliseconds."""
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            input_channels,
            num_classes,
            allow_init=False,
            deep_supervision=True,
        )
