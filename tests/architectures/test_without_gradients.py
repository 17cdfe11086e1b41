"""Passes without gradients take short cuts to the same numbers."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from fake_taps import leaves
from torch import nn

from benchmarks.plans import mstkd_architecture
from nnunetv2_mstkd.architectures import without_gradients
from nnunetv2_mstkd.architectures.merged_convolutions import MergedUpsampling
from nnunetv2_mstkd.architectures.without_gradients import in_fastest_layout, normalised
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.methods.mstkd.official_decoder import LiftUnit

LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def network(preset: str, size: int) -> MSTKDNet:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(0)
    planned = mstkd_architecture((size,) * 3, preset)
    names = planned["network_class_name"], planned["arch_kwargs"], planned["_kw_requires_import"]
    return get_network_from_plans(*names, 4, 3, deep_supervision=preset == "nnunet").eval()


@pytest.fixture
def any_size(monkeypatch):
    """Shortcuts from the smallest map on."""
    monkeypatch.setattr(without_gradients, "_SMALLEST_MAP", 0)


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(4, 16),
        nn.GroupNorm(16, 16, affine=False),
        nn.InstanceNorm3d(16, affine=True),
        nn.InstanceNorm3d(16),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(16, 16, 16), (13, 17, 11), (2, 3, 1)])
def test_norms_of_maps_with_channels_last(norm, size):
    torch.manual_seed(0)
    norm = deepcopy(norm)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 16, *size) * torch.arange(1, 17).view(-1, 1, 1, 1) + 3
    expected = deepcopy(norm).double()(x.double())
    with torch.no_grad():
        result = normalised(norm, x.contiguous(memory_format=LAYOUT[5]))
    assert result.is_contiguous(memory_format=LAYOUT[5])
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        given = x.contiguous(memory_format=LAYOUT[5])
        assert normalised(norm, given, overwrite=True) is given
    assert torch.equal(given, result)


def test_a_norm_of_images():
    x = torch.randn(2, 8, 50, 70) - 4
    norm = nn.InstanceNorm2d(8, affine=True)
    with torch.no_grad():
        result = normalised(norm, x.contiguous(memory_format=LAYOUT[4]))
    torch.testing.assert_close(result, norm(x), rtol=1e-5, atol=1e-5)


def test_sums_over_large_maps_stay_precise():
    """PyTorch's group norm of this layout adds all voxels up in one float32 and is wrong by 1e-4 here."""
    x = torch.randn(1, 4, 96, 96, 96) * 3 + 1.5
    x[:, :, :32] = 0.3
    x = x.contiguous(memory_format=LAYOUT[5])
    norm = nn.GroupNorm(4, 4)
    exact = deepcopy(norm).double()(x.double()).detach()
    with torch.no_grad():
        ours, theirs = ((f(x) - exact).abs().max() for f in (lambda x: normalised(norm, x), norm))
    assert ours < 5e-6 < theirs


def test_other_norms_and_layouts_are_left_to_pytorch():
    with torch.no_grad():
        x = torch.randn(2, 4, 5, 6, 7)
        batch_norm = nn.BatchNorm3d(4)
        x_last = x.contiguous(memory_format=LAYOUT[5])
        assert torch.equal(normalised(batch_norm, x_last), deepcopy(batch_norm)(x_last))
        tracking = nn.InstanceNorm3d(4, track_running_stats=True)
        normalised(tracking, x_last)
        assert tracking.running_mean.any(), "its own statistics are kept"
        norm = nn.GroupNorm(2, 4)
        assert torch.equal(normalised(norm, x), norm(x))


def test_the_layout_changes_only_where_it_may(any_size):
    x = torch.randn(1, 4, 8, 8, 8)
    assert in_fastest_layout(x) is x, "gradients are asked for"
    with torch.no_grad():
        assert in_fastest_layout(x).is_contiguous(memory_format=LAYOUT[5])
        assert in_fastest_layout(x.to("meta")).is_contiguous()


@pytest.mark.parametrize("preset", [pytest.param("nnunet", marks=pytest.mark.slow), "official"])
def test_a_network_shows_the_same_without_gradients(any_size, preset):
    size = 32
    net, x = network(preset, size), torch.randn(2, 4, size, size, size)
    expected = net(x, return_taps=True)
    with torch.no_grad():
        result = net(x, return_taps=True)
    got = leaves(result)
    for name, wanted in leaves(expected).items():
        scale = float(wanted.detach().std())
        torch.testing.assert_close(got.pop(name), wanted.detach(), rtol=0, atol=1e-4 * scale)
    assert not got


# ---------------------------------------------------------------- merged upsampling


@pytest.fixture
def always(monkeypatch):
    """Merge however little it saves."""
    monkeypatch.setattr("nnunetv2_mstkd.architectures.merged_convolutions._SAVED_PER_WEIGHT", -1e9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (3, 5)])
def test_merged_upsampling_is_the_same_map(always, size, bias):
    kinds = (nn.ConvTranspose3d, nn.Conv3d) if len(size) == 3 else (nn.ConvTranspose2d, nn.Conv2d)
    up, conv = kinds[0](6, 5, 2, 2, bias=bias).double(), kinds[1](5, 4, 3, padding=1, bias=bias).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = conv(up(x))
    with torch.no_grad():
        torch.testing.assert_close(MergedUpsampling()(up, conv, x), expected)


def test_merged_kernels_follow_the_weights(always, monkeypatch):
    up, conv, merged = nn.ConvTranspose3d(6, 5, 2, 2), nn.Conv3d(5, 4, 3, padding=1), MergedUpsampling()
    x, calls = torch.randn(1, 6, 3, 3, 3), []
    module = "nnunetv2_mstkd.architectures.merged_convolutions._merge"
    original = MergedUpsampling.__call__.__globals__["_merge"]
    monkeypatch.setattr(module, lambda *pair: calls.append(1) or original(*pair))
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(merged(up, conv, x), conv(up(x)))
        assert len(calls) == 1
        up.weight.mul_(2)
        torch.testing.assert_close(merged(up, conv, x), conv(up(x)))
        conv.load_state_dict({name: value + 1 for name, value in conv.state_dict().items()})
        torch.testing.assert_close(merged(up, conv, x), conv(up(x)), rtol=1e-4, atol=1e-4)
    assert len(calls) == 3
    merged(up, conv, x).sum().backward()
    assert up.weight.grad is not None
    assert len(calls) == 3, "with gradients nothing is merged"


@pytest.mark.slow
def test_merged_kernels_are_in_no_state_and_no_copy(always):
    net = network("official", 32)
    keys = [*net.state_dict()]
    with torch.no_grad():
        net(torch.randn(1, 4, 32, 32, 32))
    units = [unit for unit in net.modules() if isinstance(unit, LiftUnit)]
    assert all(unit._upsample._value is not None for unit in units)
    assert [*net.state_dict()] == keys
    copies = [unit for unit in deepcopy(net).modules() if isinstance(unit, LiftUnit)]
    assert all(copied._upsample._value is None for copied in copies)
    net.train()
    assert all(unit._upsample._value is None for unit in units)
