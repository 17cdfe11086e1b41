from __future__ import annotations

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.plans.topology import check_patch, round_up, total_stride, truncate, with_topology

_STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
_KERNELS = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def _plain() -> dict:
    return {
        "n_stages": 5,
        "features_per_stage": (32, 64, 128, 256, 320),
        "kernel_sizes": _KERNELS,
        "strides": _STRIDES,
        "n_conv_per_stage": (2, 2, 2, 2, 2),
        "n_conv_per_stage_decoder": (2, 2, 2, 2),
        "conv_bias": True,
    }


def test_truncating_keeps_the_upper_stages_and_gives_the_bottleneck_full_kernels():
    kwargs = truncate(_plain(), 2)
    assert kwargs == {
        "n_stages": 2,
        "features_per_stage": (32, 64),
        "kernel_sizes": ((1, 3, 3), (3, 3, 3)),
        "strides": ((1, 1, 1), (1, 2, 2)),
        "n_conv_per_stage": (2, 2),
        "n_conv_per_stage_decoder": (2,),
        "conv_bias": True,
    }


@pytest.mark.parametrize("max_stages", [None, 5, 9])
def test_nothing_is_truncated_without_need(max_stages):
    assert truncate(_plain(), max_stages) == _plain()


def test_truncating_knows_residual_encoders():
    kwargs = _plain()
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    assert truncate(kwargs, 3)["n_blocks_per_stage"] == (2, 2, 2)


@pytest.mark.parametrize("key", ["n_conv_per_stage", "n_blocks_per_stage"])
def test_a_new_topology_replaces_all_that_is_per_stage(key):
    kwargs = _plain()
    kwargs[key] = kwargs.pop("n_conv_per_stage")
    new = with_topology(kwargs, _STRIDES[:3], _KERNELS[:3], (8, 16, 32), ((1, 3, 4, 6), (1, 1, 1)))
    assert new["n_stages"] == 3
    assert new["strides"] == _STRIDES[:3]
    assert new["kernel_sizes"] == _KERNELS[:3]
    assert new["features_per_stage"] == (8, 16, 32)
    assert new[key] == (1, 3, 4)
    assert new["n_conv_per_stage_decoder"] == (1, 1)
    assert new["conv_bias"] is True


def test_total_stride_multiplies_over_stages():
    assert total_stride(_STRIDES) == (4, 16, 16)


def test_a_patch_that_the_strides_divide_is_accepted():
    check_patch((20, 320, 256), _STRIDES, (20, 320, 320), "3d_fullres")


def test_rounding_up_to_what_the_strides_divide():
    assert list(round_up((18, 171, 144), _STRIDES)) == [20, 176, 144]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ((20, 100, 96), "not divisible by 4 16 16.*possible: 20 96 96 or 20 112 96"),
        ((2, 96, 96), "possible: 4 96 96$"),
        ((20, 336, 96), "larger than every image of 3d_fullres; at most 20 320 320"),
    ],
)
def test_an_impossible_patch_is_refused_with_a_remedy(patch, message):
    with pytest.raises(MSTKDError, match=message):
        check_patch(patch, _STRIDES, (20, 320, 320), "3d_fullres")
