from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mstkd.architectures.upsampling import repeat_nearest
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS
from nnunetv2_mstkd.methods.mstkd.sizes import mstkdnet_kwargs
from nnunetv2_mstkd.plans.architecture import build_on_meta
from nnunetv2_mstkd.plans.memory import Memory, _InFloat32AsOnCUDA, estimate_memory
from nnunetv2_mstkd.plans.options import PlanOptions

_PLAIN = {
    "n_stages": 4,
    "features_per_stage": [16, 32, 64, 128],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2] * 4,
    "n_conv_per_stage_decoder": [2] * 3,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}


def _architecture(patch: int, preset: str = "nnunet") -> dict:
    return {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": mstkdnet_kwargs(_PLAIN, [patch] * 3, preset),
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def _estimate(patch: int, outputs: int = 4, **options) -> Memory:
    chosen = PlanOptions(**options)
    architecture = _architecture(patch, chosen.preset)
    return estimate_memory(architecture, [patch] * 3, 4, outputs, chosen, nnunet_bytes=0)


def test_a_straight_line_over_the_batch():
    memory = Memory(fixed_bytes=100, per_patch_bytes=50)
    assert memory.total_bytes(3) == 250
    assert memory.share_of_patch(300) == 0.25
    assert memory.patches_within(299) == 3
    assert memory.patches_within(120) == 0


def test_nothing_fits_where_the_weights_do_not():
    memory = Memory(fixed_bytes=100, per_patch_bytes=50)
    assert memory.share_of_patch(100) == float("inf")
    assert memory.patches_within(99) == 0


def test_nnunets_rule_rounds():
    assert Memory(0, 100, rounds=True).patches_within(260) == 3
    assert Memory(0, 100).patches_within(260) == 2


def test_weights_are_paid_once_and_patches_by_their_voxels():
    small, large = _estimate(64), _estimate(128)
    assert large.per_patch_bytes == pytest.approx(8 * small.per_patch_bytes, rel=0.1)
    # 26 bytes for the student and 6 for the frozen teacher, for each of 15.8 million weights.
    parameters = sum(p.numel() for p in build_on_meta(_architecture(64), 4, 4).parameters())
    assert small.fixed_bytes == 32 * parameters


def test_a_joint_teacher_is_a_second_student():
    frozen, joint = _estimate(64), _estimate(64, settings={"teacher": "joint"})
    assert joint.fixed_bytes > 1.3 * frozen.fixed_bytes
    assert joint.per_patch_bytes > 1.6 * frozen.per_patch_bytes


@pytest.mark.parametrize("teacher", ["shared", "nested"])
def test_the_network_itself_as_the_teacher_has_no_weights_more(teacher):
    frozen, shared = _estimate(64), _estimate(64, settings={"teacher": teacher})
    assert shared.fixed_bytes * 32 == frozen.fixed_bytes * 26
    assert shared.per_patch_bytes == frozen.per_patch_bytes


def test_the_official_preset_trains_a_joint_teacher_unless_told_otherwise():
    official = _estimate(64, preset="official")
    assert official == _estimate(64, preset="official", settings={"teacher": "joint"})
    assert (
        official.per_patch_bytes
        > _estimate(64, preset="official", settings={"teacher": "warm_start"}).per_patch_bytes
    )


def test_more_outputs_need_more_for_the_losses():
    assert _estimate(64, outputs=8).per_patch_bytes > 1.1 * _estimate(64, outputs=1).per_patch_bytes


def _nnunet_estimate(**settings: str) -> tuple[Memory, int, int]:
    """The estimate for nnU-Net's own network, its counted elements and its weights."""
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {**_PLAIN, "conv_bias": True},
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    options = PlanOptions(network="plans", settings=settings)
    memory = estimate_memory(architecture, [64] * 3, 4, 4, options, nnunet_bytes=7)
    network = build_on_meta(architecture, 4, 4)
    weights = sum(p.numel() for p in network.parameters())
    return memory, network.compute_conv_feature_map_size((64, 64, 64)), weights


def test_the_estimate_for_nnunets_networks_is_their_reference():
    memory, counted, _ = _nnunet_estimate()
    assert memory == Memory(0, 7 * counted, rounds=True)


def test_a_named_teacher_counts_beside_nnunets_networks_too():
    losses = 64**3 * 4 * 48
    frozen, counted, weights = _nnunet_estimate(teacher="warm_start")
    assert frozen == Memory(6 * weights, 7 * counted + losses)
    for itself in ("shared", "nested"):
        assert _nnunet_estimate(teacher=itself)[0] == Memory(0, 7 * counted + losses)
    assert _nnunet_estimate(teacher="joint")[0] == Memory(0, 2 * 7 * counted + losses)


def _saved_bytes_per_element(
    build: Callable[[], nn.Module], forward: Callable[..., object], patch: int
) -> float:
    """What autograd keeps under 16-bit autocast, weights and their copies left out, per counted element.

    On fake tensors, which have sizes and no content: 16-bit convolutions take minutes on processors that do
    not know them.
    """
    saved: dict[int, torch.UntypedStorage] = {}
    with FakeTensorMode():
        network = build().train()
        weights = {p.untyped_storage()._cdata for p in network.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage
            return tensor

        x = torch.rand(1, 4, patch, patch, patch)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            forward(network, x)
        copies = 2 * sum(p.numel() for p in network.parameters())
        total = sum(storage.nbytes() for storage in saved.values()) - copies
        return total / network.compute_conv_feature_map_size((patch,) * 3)


def test_the_measured_bytes_per_element_are_those_of_the_docstring():
    mstkdnet = partial(get_network_from_plans, *_architecture(64).values(), 4, 4, deep_supervision=True)
    assert _saved_bytes_per_element(
        mstkdnet, partial(nn.Module.__call__, return_taps=True), 64
    ) == pytest.approx(4.1, rel=0.1)
    plain = partial(
        PlainConvUNet,
        4,
        5,
        (32, 64, 128, 256, 320),
        nn.Conv3d,
        3,
        (1, 2, 2, 2, 2),
        (2,) * 5,
        4,
        (2,) * 4,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    assert _saved_bytes_per_element(plain, nn.Module.__call__, 64) == pytest.approx(3.9, rel=0.1)


def test_what_cuda_runs_in_32_bits_is_counted_as_such():
    x = torch.randn(1, 4, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), _InFloat32AsOnCUDA():
        half = nn.Conv3d(4, 4, 1)(x)
        assert half.dtype == torch.bfloat16
        assert nn.GroupNorm(2, 4)(half).dtype == torch.float32
        assert nn.LayerNorm(8)(half).dtype == torch.float32
        assert F.interpolate(half, scale_factor=2.0, mode="trilinear").dtype == torch.float32
        assert repeat_nearest(half, (16, 16, 16)).dtype == torch.bfloat16
    assert F.interpolate(half, scale_factor=2.0).dtype == torch.bfloat16
