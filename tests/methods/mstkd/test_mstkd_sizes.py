"""MSTKDNet's hyper-parameters from a plan."""

from __future__ import annotations

import json

import pytest
import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.sizes import bottleneck_size, mstkdnet_kwargs, thrifty_token_patch


def test_topology_and_layers_are_the_plans(stock_kwargs):
    plan = stock_kwargs((20, 56, 48), spacing=(3, 1, 1))
    kwargs = mstkdnet_kwargs(plan, (20, 56, 48))
    assert json.loads(json.dumps(kwargs)) == kwargs
    for key in ("strides", "kernel_sizes"):
        assert kwargs[key] == [list(stage) for stage in plan[key]]
    for key in ("n_stages", "features_per_stage", "conv_op", "norm_op", "norm_op_kwargs", "nonlin"):
        assert kwargs[key] == plan[key]
    assert kwargs["n_blocks_per_stage"] == [1] * plan["n_stages"]


def test_numpy_numbers_classes_and_scalars_become_json():
    import numpy as np

    plan = {
        "n_stages": np.int64(3),
        "features_per_stage": 16,
        "conv_op": torch.nn.Conv2d,
        "kernel_sizes": 3,
        "strides": (1, np.int64(2), (2, 1)),
        "n_conv_per_stage": 3,
        "norm_op": torch.nn.InstanceNorm2d,
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": None,
    }
    kwargs = json.loads(json.dumps(mstkdnet_kwargs(plan, np.array([32, 32]))))
    assert kwargs["strides"] == [[1, 1], [2, 2], [2, 1]]
    assert kwargs["features_per_stage"] == [16, 16, 16]
    assert kwargs["n_blocks_per_stage"] == [2, 2, 2]
    assert kwargs["conv_op"] == "torch.nn.modules.conv.Conv2d"
    assert kwargs["patch_size"] == [32, 32]


@pytest.mark.parametrize(
    ("bottleneck", "token_patch"), [(40, 4), (16, 4), (13, 4), (12, 2), (7, 2), (6, 1), (4, 1), (1, 1)]
)
def test_token_patch_is_the_largest_that_leaves_four_tokens(stock_kwargs, bottleneck, token_patch):
    plan = stock_kwargs((64, 64), max_stages=2) | {"strides": [[1, 1], [1, 2]]}
    kwargs = mstkdnet_kwargs(plan, (bottleneck, 2 * bottleneck))
    assert kwargs["token_patch_size"] == [token_patch, token_patch]


@pytest.mark.parametrize(
    ("features", "expected"),
    [(8, (64, 2, 192)), (64, (192, 6, 512)), (128, (384, 6, 1024)), (320, (768, 12, 2048))],
)
def test_token_width_follows_the_bottleneck(stock_kwargs, features, expected):
    kwargs = mstkdnet_kwargs(stock_kwargs((64, 64)) | {"features_per_stage": features}, (64, 64))
    assert (kwargs["token_features"], kwargs["token_heads"], kwargs["token_mlp_features"]) == expected
    assert (kwargs["token_layers"], kwargs["token_taps"]) == (8, [2, 4, 6, 8])


def test_official_takes_only_the_topology(stock_kwargs):
    plan = stock_kwargs((20, 56, 48), spacing=(3, 1, 1))
    kwargs = mstkdnet_kwargs(plan, (20, 56, 48), preset="official")
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert kwargs["strides"] == [list(stage) for stage in plan["strides"]]
    assert kwargs["features_per_stage"] == [16, 32, 64, 128]
    assert kwargs["n_blocks_per_stage"] == [1, 2, 2, 4]
    assert kwargs["token_patch_size"] == [4, 4, 4]
    assert kwargs["token_taps"] == [3, 6, 9, 12]
    assert kwargs["dropout"] == 0.2


def test_own_kwargs_are_a_fixed_point(stock_kwargs):
    for preset in ("nnunet", "official"):
        kwargs = mstkdnet_kwargs(stock_kwargs((40, 48)), (40, 48), preset)
        assert mstkdnet_kwargs(kwargs, (40, 48), preset) == kwargs


@pytest.mark.parametrize(
    ("change", "patch", "preset", "message"),
    [
        ({}, (32, 32), "other", "unknown preset 'other'; use one of nnunet, official"),
        ({"n_stages": 1}, (32, 32), "nnunet", "n_stages is 1"),
        ({}, (32, 32, 32), "nnunet", "the patch has 3 axes"),
    ],
)
def test_plans_that_do_not_fit_are_named(stock_kwargs, change, patch, preset, message):
    with pytest.raises(MSTKDError, match=message):
        mstkdnet_kwargs(stock_kwargs((32, 32)) | change, patch, preset)


def test_bottleneck_size_rounds_up_at_every_stage():
    assert bottleneck_size((7, 33), [[1, 1], [1, 2], [2, 2]]) == (4, 9)


@pytest.mark.parametrize(
    ("patch", "before", "after"),
    [
        ((512, 512), (4, 4), [4, 4]),
        ((640, 640), (4, 4), [4, 4]),
        ((640, 704), (4, 4), [4, 8]),
        ((1024, 1024), (4, 4), [8, 4]),
        ((2048, 2048), (4, 4), [8, 8]),
        ((4096, 4096), (4, 4), [8, 8]),  # there is nothing larger
        ((192, 192), (1, 1), [4, 2]),
        ((128, 4096), (4, 4), [4, 8]),  # the short axis keeps four tokens
        ((320, 320, 320), (4, 4, 4), [4, 4, 4]),
        ((128, 128, 128), (1, 1, 1), [2, 2, 2]),
    ],
)
def test_a_large_patch_has_fewer_tokens_where_attention_would_cost_too_much(patch, before, after):
    strides = [[1] * len(patch), *[[2] * len(patch)] * 3]
    assert thrifty_token_patch(before, patch, strides) == after
