"""Networks as nnU-Net builds them: from a plan's kwargs that went through JSON."""

from __future__ import annotations

import json

import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from benchmarks.plans import unet
from nnunetv2_mstkd.methods.mstkd.sizes import mstkdnet_kwargs


def _stock_kwargs(patch, *, spacing=None, max_stages=9, base_features=4, blocks=None) -> dict:
    axes = len(patch)
    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing or [1] * axes, patch, 4, 999)
    strides, kernels = strides[:max_stages], kernels[:max_stages]
    features = [min(base_features * 2**i, 320) for i in range(len(strides))]
    return unet(features, strides, kernels, blocks=blocks)["arch_kwargs"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stock_kwargs():
    """``arch_kwargs`` that nnU-Net's planner gives PlainConvUNet for a patch, with few features."""
    return _stock_kwargs


@pytest.fixture(scope="session")
def build_network():
    """Builds MSTKDNet for a patch the way nnU-Net does it from a plans file."""

    def build(
        patch, *, channels=4, classes=3, deep_supervision=True, preset="nnunet", overrides=None, **plan
    ):
        kwargs = mstkdnet_kwargs(_stock_kwargs(patch, **plan), patch, preset) | (overrides or {})
        return get_network_from_plans(
            "nnunetv2_mstkd.methods.mstkd.network.MSTKDNet",
            json.loads(json.dumps(kwargs)),
            ["conv_op", "norm_op", "nonlin"],
            channels,
            classes,
            deep_supervision=deep_supervision,
        )

    return build
