from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plans import unet
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS
from nnunetv2_mstkd.methods.mstkd.sizes import mstkdnet_kwargs
from nnunetv2_mstkd.plans.architecture import Preset, build_on_meta, for_network, stage_limit
from nnunetv2_mstkd.plans.options import PlanOptions


def _nnunet(base: int, stages: int) -> dict:
    """A nnU-Net plan's architecture for an isotropic 3D patch."""
    return unet([min(320, base * 2**i) for i in range(stages)])


def _flops(network: nn.Module, patch: int) -> int:
    network.decoder.deep_supervision = False
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.empty(1, 4, patch, patch, patch, device="meta"))
    return counter.get_total_flops()


def test_the_default_network_costs_less_than_a_third_of_nnunets():
    ours = build_on_meta(for_network(_nnunet(16, 6), (128,) * 3, PlanOptions()), 4, 4)
    theirs = build_on_meta(_nnunet(32, 6), 4, 4)
    assert _flops(ours, 128) < 0.30 * _flops(theirs, 128)


def test_mstkdnet_replaces_nnunets_network_with_the_plans_stages():
    entry = for_network(_nnunet(16, 6), (128,) * 3, PlanOptions())
    assert entry["network_class_name"] == NETWORK_CLASS
    assert entry["_kw_requires_import"] == ["conv_op", "norm_op", "nonlin"]
    assert entry["arch_kwargs"]["n_stages"] == 4
    assert entry["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128]
    assert entry["arch_kwargs"]["patch_size"] == [128, 128, 128]


def test_more_stages_on_request():
    entry = for_network(_nnunet(16, 6), (128,) * 3, PlanOptions(max_stages=5))
    assert entry["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128, 256]


@pytest.mark.parametrize(("given", "found"), [((1,), [1, 1, 1]), ((1, 4, 2), [1, 4, 2]), ((1, 1), [4, 4, 4])])
def test_tokens_as_another_model_has_them(given, found):
    """Two numbers are for 2d, and leave 3d alone."""
    entry = for_network(_nnunet(16, 6), (128,) * 3, PlanOptions(token_patch=given))
    assert entry["arch_kwargs"]["token_patch_size"] == found


def test_new_plans_for_large_2d_patches_have_larger_tokens():
    """But not what a model trained on stock plans makes of them: its weights have their tokens."""
    given, patch = _nnunet(16, 4), (1024, 1024)
    two = {"conv_op": "torch.nn.modules.conv.Conv2d", "kernel_sizes": ((3, 3),) * 4}
    kwargs = given["arch_kwargs"] | two | {"strides": ((1, 1), *((2, 2),) * 3)}
    entry = for_network(given | {"arch_kwargs": kwargs}, patch, PlanOptions())
    assert entry["arch_kwargs"]["token_patch_size"] == [8, 4]
    asked = for_network(given | {"arch_kwargs": kwargs}, patch, PlanOptions(token_patch=(4,)))
    assert asked["arch_kwargs"]["token_patch_size"] == mstkdnet_kwargs(kwargs, patch)["token_patch_size"]
    assert asked["arch_kwargs"]["token_patch_size"] == [4, 4]


def test_nnunets_network_stays_as_it_is():
    assert for_network(_nnunet(32, 6), (128,) * 3, PlanOptions(network="plans")) == _nnunet(32, 6)


def test_the_official_preset_is_the_published_network():
    entry = for_network(_nnunet(16, 6), (160, 192, 128), PlanOptions(preset="official"))
    network = build_on_meta(entry, 4, 4)
    assert sum(p.numel() for p in network.parameters()) == 154_335_684


def test_stage_limits():
    assert stage_limit(PlanOptions()) == 4
    assert stage_limit(PlanOptions(max_stages=3)) == 3
    assert stage_limit(PlanOptions(network="plans")) is None


def test_only_the_official_preset_limits_the_patch():
    median = np.array([140.0, 171.0, 137.0])
    official = Preset.of(PlanOptions(preset="official"))
    assert list(official.clip(np.array([300.0, 171.0, 137.0]))) == [128, 171, 137]
    assert list(official.clip(median[1:])) == [171, 137]
    assert list(Preset.of(PlanOptions()).clip(median)) == list(median)


@pytest.mark.parametrize("options", [PlanOptions(), PlanOptions(network="plans")])
def test_building_on_meta_stores_nothing(options):
    network = build_on_meta(for_network(_nnunet(16, 5), (64,) * 3, options), 4, 4)
    assert {p.device.type for p in network.parameters()} == {"meta"}
