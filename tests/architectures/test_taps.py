from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunetv2_mstkd.architectures.shapes import input_convolutions, run_on_meta
from nnunetv2_mstkd.architectures.taps import NetworkTaps, with_taps
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet

UNETS = "dynamic_network_architectures.architectures.unet."
PATCH = (16, 16, 16)


@pytest.fixture(params=["PlainConvUNet", "ResidualEncoderUNet"])
def unet(request, stock_kwargs):
    blocks = None if request.param == "PlainConvUNet" else [1, 2, 2]
    kwargs = stock_kwargs(PATCH, max_stages=3, blocks=blocks)
    needs = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return get_network_from_plans(UNETS + request.param, kwargs, needs, 4, 3, deep_supervision=True)


def test_a_unet_shows_its_deepest_features_and_stays_what_it_was(unet):
    x = torch.randn(1, 4, *PATCH)
    before, keys = unet(x), list(unet.state_dict())
    assert with_taps(unet) is unet
    for ours, theirs in zip(unet(x), before, strict=True):
        torch.testing.assert_close(ours, theirs)
    taps = unet(x, return_taps=True)
    torch.testing.assert_close(taps.logits[0], before[0])
    torch.testing.assert_close(taps.inner["encoded"], unet.encoder(x)[-1])
    assert set(taps.inner) == {"encoded"}
    assert list(unet.state_dict()) == keys
    assert type(with_taps(unet)) is type(with_taps(deepcopy(unet))), "changed once"


def test_a_network_of_unknown_form_shows_its_logits():
    network = with_taps(nn.Conv3d(4, 3, 1))
    taps = network(torch.randn(1, 4, 2, 2, 2), return_taps=True)
    assert taps.logits.shape == (1, 3, 2, 2, 2)
    assert not taps.inner


def test_a_unet_with_a_forward_of_its_own_is_not_second_guessed(unet):
    class Doubled(type(unet)):
        def forward(self, x):
            return [2 * level for level in super().forward(x)]

    x = torch.randn(1, 4, *PATCH)
    expected = 2 * unet(x)[0]
    unet.__class__ = Doubled
    torch.testing.assert_close(with_taps(unet)(x, return_taps=True).logits[0], expected)
    assert "encoded" not in unet(x, return_taps=True).inner


def test_mstkdnet_has_taps_of_its_own(build_network):
    network = build_network(PATCH)
    assert type(with_taps(network)) is MSTKDNet


def test_attention_is_left_out_on_request(build_network, monkeypatch):
    network = build_network(PATCH).eval()
    x = torch.randn(1, 4, *PATCH)
    whole = network(x, return_taps=True)
    monkeypatch.setattr(torch, "softmax", None)  # only materialised attention needs it
    taps = network(x, return_taps=("content",))
    assert "attention" not in taps.inner
    torch.testing.assert_close(taps.inner["content"], whole.inner["content"])


def test_shapes_cost_nothing_and_change_nothing(unet):
    with_taps(unet)
    weights = {k: v.clone() for k, v in unet.state_dict().items()}
    taps = run_on_meta(unet, (2, 4, *PATCH), return_taps=True)
    assert isinstance(taps, NetworkTaps)
    assert taps.inner["encoded"].device.type == "meta"
    assert taps.inner["encoded"].shape == (2, 16, 4, 4, 4)
    assert all(torch.equal(v, weights[k]) for k, v in unet.state_dict().items())


def test_finds_the_convolutions_that_see_the_input(unet, build_network):
    (name,) = input_convolutions(unet, (1, 4, *PATCH))
    assert unet.get_submodule(name).weight.shape[1] == 4
    assert name in unet.keys_to_in_proj
    assert input_convolutions(build_network(PATCH), (1, 4, *PATCH)) == ["encoder.stages.0.conv"]
