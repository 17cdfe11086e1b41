"""Hyper-parameters of MSTKDNet for a patch and the stages that a nnU-Net plan gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.settings import PRESETS

# Entries that name classes, as nnU-Net's `_kw_requires_import` wants to know.
CLASS_KWARGS = ("conv_op", "norm_op", "nonlin")

# Smallest token grid per axis that a larger token patch may leave.
_MIN_TOKENS_PER_AXIS = 4
_MAX_TOKEN_PATCH = 4
# Where so many tokens are too many, see `thrifty_token_patch`.
_MAX_THRIFTY_TOKEN_PATCH = 8
_VOXELS_PER_TOKEN_PAIR = 2.5
_MAX_TOKEN_FEATURES = 768
_NARROW_HEAD, _WIDE_HEAD = 32, 64
# Grid of the position table, whatever the patch: weights then fit the network of any other patch.
_POSITIONS_PER_AXIS = 8
_OFFICIAL_POSITION_GRID = (5, 6, 4)  # of the published patch, 160×192×128


def mstkdnet_kwargs(
    arch_kwargs: Mapping[str, Any],
    patch_size: Sequence[int],
    preset: str = "nnunet",
    token_patch: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of MSTKDNet, JSON-serialisable, every hyper-parameter stated.

    Args:
        arch_kwargs: of a stock plan's network (PlainConvUNet, ResidualEncoderUNet) or of MSTKDNet. Stages,
            kernels and strides are kept exactly: nnU-Net derives its deep-supervision scales from them.
        patch_size: voxels per axis.
        preset: ``nnunet`` takes features, blocks, norm and nonlinearity from the plan and sizes the tokens to
            the bottleneck; ``official`` takes all of that from the published network,
            whose widths double with every stage that the plan has.
        token_patch: bottleneck voxels per token, per axis, instead of the preset's.

    Raises:
        MSTKDError: unknown preset, a plan with one stage only, or a patch whose axes are not the strides'.
    """
    if preset not in PRESETS:
        raise MSTKDError(f"unknown preset '{preset}'; use one of {', '.join(PRESETS)}")
    axes, n_stages = len(patch_size), int(arch_kwargs["n_stages"])
    if n_stages < 2:
        raise MSTKDError(f"n_stages is {n_stages}; MSTKDNet needs 2 or more, plan with a larger patch")
    strides = _per_stage_and_axis(arch_kwargs["strides"], n_stages, axes)
    topology = {
        "n_stages": n_stages,
        "conv_op": _class_name(arch_kwargs["conv_op"]),
        "kernel_sizes": _per_stage_and_axis(arch_kwargs["kernel_sizes"], n_stages, axes),
        "strides": strides,
        "patch_size": [int(n) for n in patch_size],
        "preset": preset,
    }
    if preset == "official":
        kwargs = topology | _official(n_stages, axes)
    else:
        kwargs = topology | _nnunet(arch_kwargs, n_stages, bottleneck_size(patch_size, strides))
    if token_patch is not None:
        kwargs["token_patch_size"] = [int(n) for n in token_patch]
    return kwargs


def thrifty_token_patch(
    token_patch: Sequence[int], patch_size: Sequence[int], strides: Sequence[Sequence[int]]
) -> list[int]:
    """``token_patch``, doubled on the longest axes while a patch has more than voxels / 2.5 pairs of tokens.

    Attention's work grows with pairs of tokens, that of convolutions with voxels: at this limit attention is
    just below 5 % of all multiply-adds of the ``nnunet`` preset as planned, in 2D and 3D (counted:
    ``python -m benchmarks.scaling --count-only``). Large 2D patches get there, from about 650×650.

    For new plans only: weights belong to their token patch, and for models trained on stock plans, which do
    not state it, it must stay what :func:`mstkdnet_kwargs` makes of them.

    Args:
        token_patch: bottleneck voxels per token, per axis.
        patch_size: voxels per axis.
        strides: per stage and axis.
    """
    bottleneck, chosen = bottleneck_size(patch_size, strides), [int(n) for n in token_patch]

    def tokens(sizes: Sequence[int]) -> list[int]:
        return [ceil(n / size) for n, size in zip(bottleneck, sizes, strict=True)]

    while _VOXELS_PER_TOKEN_PAIR * prod(tokens(chosen)) ** 2 > prod(patch_size):
        halved = tokens([2 * size for size in chosen])
        possible = [
            axis
            for axis, size in enumerate(chosen)
            if 2 * size <= _MAX_THRIFTY_TOKEN_PATCH and halved[axis] >= _MIN_TOKENS_PER_AXIS
        ]
        if not possible:
            break
        chosen[max(possible, key=lambda axis: halved[axis])] *= 2
    return chosen


def bottleneck_size(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Voxels per axis at the last stage: every stride maps n to ceil(n / stride)."""
    size = [int(n) for n in patch_size]
    for stride in strides:
        size = [ceil(n / s) for n, s in zip(size, stride, strict=True)]
    return tuple(size)


def official_kwargs(patch_size: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of the published network for a 2D or 3D patch: four stages, isotropic strides."""
    axes = len(patch_size)
    stages = {
        "n_stages": 4,
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": 3,
        "strides": [1, 2, 2, 2],
    }
    return mstkdnet_kwargs(stages, patch_size, preset="official")


def _official(n_stages: int, axes: int) -> dict[str, Any]:
    return {
        "features_per_stage": [16 * 2**stage for stage in range(n_stages)],
        "n_blocks_per_stage": [1, *[2] * (n_stages - 2), 4],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.normalization.GroupNorm",
        "norm_op_kwargs": {"num_groups": 8},
        "nonlin": "torch.nn.modules.activation.ReLU",
        "nonlin_kwargs": {"inplace": True},
        "token_patch_size": [4] * axes,
        "position_grid": list(_OFFICIAL_POSITION_GRID[:axes]),
        "token_features": 768,
        "token_layers": 12,
        "token_heads": 12,
        "token_mlp_features": 2048,
        "token_taps": [3, 6, 9, 12],
        "token_dropout": 0.1,
        "dropout": 0.2,
    }


def _nnunet(arch_kwargs: Mapping[str, Any], n_stages: int, bottleneck: Sequence[int]) -> dict[str, Any]:
    features = _per_stage(arch_kwargs["features_per_stage"], n_stages)
    token_features, heads = _token_width(features[-1])
    return {
        "features_per_stage": features,
        "n_blocks_per_stage": _blocks(arch_kwargs, n_stages),
        "conv_bias": bool(arch_kwargs.get("conv_bias", True)),
        "norm_op": _class_name(arch_kwargs["norm_op"]),
        "norm_op_kwargs": dict(arch_kwargs.get("norm_op_kwargs") or {}),
        "nonlin": _class_name(arch_kwargs["nonlin"]),
        "nonlin_kwargs": dict(arch_kwargs.get("nonlin_kwargs") or {}),
        "token_patch_size": [_token_patch(n) for n in bottleneck],
        "position_grid": [_POSITIONS_PER_AXIS] * len(bottleneck),
        "token_features": token_features,
        "token_layers": 8,
        "token_heads": heads,
        # 8/3 is the published ratio, 2048 / 768.
        "token_mlp_features": _round_up(token_features * 8 / 3, 32),
        "token_taps": [2, 4, 6, 8],
        "token_dropout": 0.1,
        "dropout": 0.1,
    }


def _token_patch(voxels: int) -> int:
    """Largest power of two up to 4 that leaves an axis at least four tokens, else 1."""
    size = _MAX_TOKEN_PATCH
    while size > 1 and ceil(voxels / size) < _MIN_TOKENS_PER_AXIS:
        size //= 2
    return size


def _token_width(channels: int) -> tuple[int, int]:
    """Token features and heads: three times the bottleneck's channels, in whole heads, at most 768."""
    features = min(_MAX_TOKEN_FEATURES, _round_up(3 * channels, _WIDE_HEAD))
    head = _WIDE_HEAD if features >= 4 * _WIDE_HEAD else _NARROW_HEAD
    return features, features // head


def _blocks(arch_kwargs: Mapping[str, Any], n_stages: int) -> list[int]:
    """Residual blocks per stage; two convolutions of a plain network make one block."""
    if "n_blocks_per_stage" in arch_kwargs:
        return _per_stage(arch_kwargs["n_blocks_per_stage"], n_stages)
    return [ceil(n / 2) for n in _per_stage(arch_kwargs["n_conv_per_stage"], n_stages)]


def _per_stage(value: int | Sequence[int], n_stages: int) -> list[int]:
    return [int(n) for n in value] if isinstance(value, Sequence) else [int(value)] * n_stages


def _per_stage_and_axis(value: Any, n_stages: int, axes: int) -> list[list[int]]:
    stages = value if isinstance(value, Sequence) else [value] * n_stages
    result = [[int(n) for n in s] if isinstance(s, Sequence) else [int(s)] * axes for s in stages]
    if any(len(stage) != axes for stage in result):
        raise MSTKDError(f"the patch has {axes} axes, but the plan's strides or kernels are {result}")
    return result


def _round_up(value: float, multiple: int) -> int:
    return ceil(value / multiple) * multiple


def _class_name(value: str | type) -> str:
    return value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"
