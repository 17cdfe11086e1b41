"""Stages, strides and features for a patch: nnU-Net's rules, cut off where this network has its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError

# Entries of nnU-Net's arch_kwargs with one item per stage, and those with one per decoder stage.
_PER_STAGE = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage")
_PER_DECODER_STAGE = ("n_conv_per_stage_decoder",)


def truncate(arch_kwargs: Mapping[str, Any], max_stages: int | None) -> dict[str, Any]:
    """``arch_kwargs`` of a nnU-Net plan with at most ``max_stages`` stages.

    The last stage that remains gets kernels of 3 on every axis, as nnU-Net gives its bottleneck.
    """
    kwargs = dict(arch_kwargs)
    if max_stages is None or kwargs["n_stages"] <= max_stages:
        return kwargs
    kwargs["n_stages"] = max_stages
    for key in _PER_STAGE:
        if key in kwargs:
            kwargs[key] = tuple(kwargs[key][:max_stages])
    for key in _PER_DECODER_STAGE:
        if key in kwargs:
            kwargs[key] = tuple(kwargs[key][: max_stages - 1])
    axes = len(kwargs["strides"][0])
    kwargs["kernel_sizes"] = (*kwargs["kernel_sizes"][:-1], (3,) * axes)
    return kwargs


def with_topology(
    arch_kwargs: Mapping[str, Any],
    strides: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
    features: Sequence[int],
    blocks: tuple[Sequence[int], Sequence[int]],
) -> dict[str, Any]:
    """``arch_kwargs`` of a nnU-Net plan with the stages of another patch.

    Args:
        arch_kwargs: of any nnU-Net planner.
        strides: per stage; their number decides the number of stages.
        kernel_sizes: per stage.
        features: channels per stage.
        blocks: convolutions (or residual blocks) per encoder stage and convolutions per decoder stage, at
            least as many entries as there are stages.
    """
    stages = len(strides)
    per_encoder_stage = "n_blocks_per_stage" if "n_blocks_per_stage" in arch_kwargs else "n_conv_per_stage"
    return {
        **arch_kwargs,
        "n_stages": stages,
        "strides": tuple(strides),
        "kernel_sizes": tuple(kernel_sizes),
        "features_per_stage": tuple(features),
        per_encoder_stage: tuple(blocks[0][:stages]),
        "n_conv_per_stage_decoder": tuple(blocks[1][: stages - 1]),
    }


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Voxels of the input per voxel of the bottleneck, per axis."""
    return tuple(int(n) for n in np.prod(np.asarray(strides), axis=0))


def round_up(size: Sequence[float], strides: Sequence[Sequence[int]]) -> np.ndarray:
    """Smallest size per axis that holds ``size`` and that the strides divide."""
    divisor = np.asarray(total_stride(strides))
    return np.ceil(np.asarray(size) / divisor).astype(int) * divisor


def check_patch(
    patch_size: Sequence[int], strides: Sequence[Sequence[int]], largest: Sequence[int], name: str
) -> None:
    """Refuse a patch that the strides do not divide or that is larger than ``largest``.

    Args:
        patch_size: voxels per axis, axis order of the plans.
        strides: of every stage of the network.
        largest: voxels per axis of the largest patch that is not all padding at its end.
        name: of the configuration, for the message.

    Raises:
        MSTKDError: naming the nearest possible patch, or the largest one.
    """
    divisor, patch = np.asarray(total_stride(strides)), np.asarray(patch_size)
    if np.any(patch > largest):
        raise MSTKDError(
            f"--patch-size {_join(patch)} is larger than every image of {name}; at most {_join(largest)}"
        )
    if np.any(patch % divisor):
        below, above = patch // divisor * divisor, -(-patch // divisor) * divisor
        fitting = [p for p in (below, above) if p.min() > 0]
        raise MSTKDError(
            f"--patch-size {_join(patch)} is not divisible by {_join(divisor)}, the strides of {name};"
            f" possible: {' or '.join(_join(p) for p in fitting)}"
        )


def _join(numbers: Sequence[int] | np.ndarray) -> str:
    return " ".join(str(int(n)) for n in numbers)
