"""MSTKDNet for the plans that nnU-Net makes: sizes, taps, gradients, weights."""

from __future__ import annotations

import pickle
from copy import deepcopy

import dynamic_network_architectures.architectures.abstract_arch as abstract_arch
import numpy as np
import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet

# Patch, spacing, stages at most: isotropic, odd bottleneck, anisotropic (strides (1, 2, 2)), not divisible by
# the strides, two stages, 2D.
PLANS = [
    pytest.param((32, 32, 32), None, 4, id="32x32x32"),
    pytest.param((40, 40, 40), None, 4, id="odd-bottleneck"),
    pytest.param((12, 40, 32), (3, 1, 1), 4, id="anisotropic"),
    pytest.param((7, 33, 35), (5, 1, 1), 9, id="indivisible"),
    pytest.param((16, 24, 16), None, 2, id="two-stages"),
    pytest.param((64, 48), None, 9, id="2d"),
    pytest.param((33, 70), None, 3, id="2d-indivisible"),
]


class Dispatched(TorchDispatchMode):
    """Records every operator and the size of what it returns."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.calls.append((func.overloadpacket.__name__, output.numel()))
        return output


def sizes_per_head(patch, strides):
    size, sizes = np.array(patch), []
    for stride in strides[:-1]:
        size = -(-size // np.array(stride))
        sizes.append(tuple(size))
    return sizes


@pytest.mark.parametrize(("patch", "spacing", "max_stages"), PLANS)
def test_outputs_and_taps_have_the_documented_shapes(build_network, stock_kwargs, patch, spacing, max_stages):
    plan = {"spacing": spacing, "max_stages": max_stages}
    network = build_network(patch, **plan)
    strides = stock_kwargs(patch, **plan)["strides"]
    taps = network(torch.randn(2, 4, *patch), return_taps=True)
    assert [tuple(o.shape) for o in taps.logits] == [(2, 3, *s) for s in sizes_per_head(patch, strides)]
    bottleneck = (2, network.style_channels, *network.bottleneck_size)
    assert (
        taps.inner["style"].shape == taps.inner["content"].shape == taps.inner["encoded"].shape == bottleneck
    )
    token_patch = network.tokens.patch_size
    grid = [-(-n // p) for n, p in zip(network.bottleneck_size, token_patch, strict=True)]
    n_tokens = int(np.prod(grid))
    heads = network.tokens.transformer.heads
    assert [a.shape for a in taps.inner["attention"]] == [(2, heads, n_tokens, n_tokens)] * 4
    # The shallowest tap is at the padded bottleneck's resolution, the deepest on the token grid.
    assert taps.inner["token_features"][0].shape[2:] == tuple(
        n * p for n, p in zip(grid, token_patch, strict=True)
    )
    assert taps.inner["token_features"][-1].shape[2:] == tuple(grid)


@pytest.mark.parametrize(("patch", "spacing", "max_stages"), PLANS[2:6])
def test_gradient_reaches_every_trainable_parameter(build_network, patch, spacing, max_stages):
    for deep_supervision in (True, False):
        plan = {"spacing": spacing, "max_stages": max_stages, "deep_supervision": deep_supervision}
        network = build_network(patch, **plan)
        logits = network(torch.randn(1, 4, *patch), return_taps=deep_supervision)
        outputs = logits.logits if deep_supervision else [logits]
        sum(o.square().mean() for o in outputs).backward()
        assert not [k for k, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert all(p.requires_grad for p in network.parameters()) == (
            deep_supervision or len(network.decoder.seg_layers) == 1
        )


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_any_number_of_channels_and_classes(build_network, channels):
    network = build_network((32, 32), channels=channels, classes=channels + 1, deep_supervision=False)
    assert network(torch.randn(1, channels, 32, 32)).shape == (1, channels + 1, 32, 32)


def test_residual_encoder_plans_give_their_number_of_blocks(build_network):
    network = build_network((32, 32), blocks=[1, 3, 4, 6], max_stages=4)
    blocks = [len(stage.blocks) for stage in network.encoder.stages] + [len(network.content_blocks)]
    assert blocks == [1, 3, 4, 0, 6]
    assert network(torch.randn(1, 4, 32, 32))[0].shape == (1, 3, 32, 32)


def test_other_sizes_than_the_patch(build_network):
    network = build_network((32, 32, 32), max_stages=3, deep_supervision=False)
    assert network(torch.randn(1, 4, 41, 32, 27)).shape == (1, 3, 41, 32, 27)


def test_taps_and_plain_forward_give_the_same_logits(build_network):
    network = build_network((32, 32, 32), max_stages=3).eval()
    x = torch.randn(2, 4, 32, 32, 32)
    with torch.no_grad():
        plain, taps = network(x), network(x, return_taps=True)
    assert isinstance(taps, NetworkTaps)
    for a, b in zip(plain, taps.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for attention in taps.inner["attention"]:
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_without_taps_no_attention_matrix_is_made(build_network):
    network = build_network((32, 32), max_stages=3).eval()
    made = {}
    for return_taps in (False, True):
        with torch.no_grad(), Dispatched() as dispatched:
            network(torch.randn(1, 4, 32, 32), return_taps=return_taps)
        made[return_taps] = sum(name == "_softmax" for name, _ in dispatched.calls)
    assert made == {False: 0, True: 4}


def test_deep_supervision_can_be_switched_and_keeps_the_state_dict(build_network):
    with_heads = build_network((32, 32), deep_supervision=True)
    without = build_network((32, 32), deep_supervision=False)
    without.load_state_dict(with_heads.state_dict())
    x = torch.randn(1, 4, 32, 32)
    outputs = with_heads.eval()(x)
    assert len(outputs) == len(with_heads.encoder.stages) - 1
    torch.testing.assert_close(without.eval()(x), outputs[0])
    without.decoder.deep_supervision = True
    assert len(without(x)) == len(outputs)


def test_content_of_an_absent_channel_has_no_influence(build_network):
    network = build_network((32, 32), deep_supervision=False).eval()
    x, other = torch.randn(2, 1, 4, 32, 32)
    noisy = x.clone()
    noisy[:, 1] = other[:, 1]
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(1, 4, 1, 1)
    assert torch.equal(network(x * mask), network(noisy * mask))
    assert not torch.allclose(network(x), network(noisy))


def test_batch_equals_singles(build_network):
    network = build_network((16, 16, 16), max_stages=3, deep_supervision=False).eval()
    x = torch.randn(3, 4, 16, 16, 16)
    with torch.no_grad():
        singles = torch.cat([network(sample[None]) for sample in x])
        torch.testing.assert_close(network(x), singles, rtol=1e-4, atol=1e-4)


def test_bfloat16_autocast_is_finite_and_keeps_attention_in_float32(build_network):
    network = build_network((32, 32, 32), max_stages=3)
    with torch.autocast("cpu", torch.bfloat16):
        taps = network(torch.randn(2, 4, 32, 32, 32), return_taps=True)
        sum(o.float().square().mean() for o in taps.logits).backward()
    assert taps.logits[0].dtype == torch.bfloat16
    assert all(
        o.isfinite().all()
        for o in (*taps.logits, *taps.inner["token_features"], taps.inner["style"], taps.inner["content"])
    )
    for attention in taps.inner["attention"]:
        assert attention.dtype == torch.float32
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("patch", "spacing", "max_stages"), PLANS)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_feature_map_size_is_what_a_forward_makes(
    build_network, patch, spacing, max_stages, deep_supervision
):
    network = build_network(
        patch, spacing=spacing, max_stages=max_stages, deep_supervision=deep_supervision
    ).eval()
    with torch.no_grad(), Dispatched() as dispatched:
        taps = network(torch.randn(1, 4, *patch), return_taps=True)
    counted = sum(size for name, size in dispatched.calls if name in ("convolution", "addmm"))
    counted += sum(attention.numel() for attention in taps.inner["attention"])
    # Nothing is estimated, so nothing may differ.
    assert network.compute_conv_feature_map_size(np.array(patch)) == counted
    assert all(p.device.type == "cpu" for p in network.parameters())


def test_weight_transfer_keys_exist(build_network):
    network = build_network((32, 32))
    abstract_arch.test_submodules_loadable(network)
    assert network.get_parameter(network.key_to_lpe).shape[1] == 8**2


def test_weights_fit_a_network_for_another_patch(build_network):
    """nnU-Net's -pretrained_weights asks for equal shapes of everything but the segmentation heads."""
    small = build_network((32, 32), max_stages=3)
    large = build_network((48, 32), max_stages=3)
    assert small.token_grid != large.token_grid
    large.load_state_dict(small.state_dict())
    x = torch.randn(1, 4, 48, 32)
    torch.testing.assert_close(small.eval()(x), large.eval()(x))


def test_pretrained_weights_load_into_another_number_of_classes(build_network, tmp_path, capsys):
    pretrained, network = build_network((32, 32), classes=3), build_network((32, 32), classes=5)
    torch.save({"network_weights": pretrained.state_dict()}, tmp_path / "checkpoint.pth")
    before = network.decoder.seg_layers[0].weight.clone()
    load_pretrained_weights(network, tmp_path / "checkpoint.pth")
    torch.testing.assert_close(network.merge_conv.weight, pretrained.merge_conv.weight)
    torch.testing.assert_close(network.decoder.seg_layers[0].weight, before)


def test_copies_and_pickles_compute_the_same(build_network):
    network = build_network((32, 32), deep_supervision=False).eval()
    x = torch.randn(1, 4, 32, 32)
    for copy in (deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(copy(x), network(x))


def test_initialisation_depends_on_the_preset(build_network):
    stem = build_network((32, 32), channels=1, base_features=64, max_stages=2).encoder.stages[1].conv
    he = (2 / (64 * 9)) ** 0.5
    assert float(stem.weight.detach().std()) == pytest.approx(he, rel=0.05)
    assert not stem.bias.any()
    with torch.device("meta"):
        official = MSTKDNet.official(patch_size=(32, 32))
    official.encoder.to_empty(device="cpu")
    torch.nn.init.constant_(official.encoder.stages[0].conv.weight, 5.0)
    official.apply(official.initialize)
    assert (official.encoder.stages[0].conv.weight == 5.0).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"token_patch_size": [3, 4]}, r"token_patch_size \[3, 4\]"),
        ({"token_features": 65}, "token_features 65 .* token_heads"),
        ({"token_taps": [2, 4]}, r"token_taps \[2, 4\] .* token_layers \(8\)"),
        ({"token_taps": [0, 8]}, r"token_taps \[0, 8\]"),
        ({"token_taps": [4, 2, 8]}, r"token_taps \[4, 2, 8\]"),
        ({"token_taps": []}, r"token_taps \[\]"),
        ({"preset": "other"}, "unknown preset 'other'; use one of nnunet, official"),
        ({"preset": "official", "token_taps": [4, 8]}, "official token decoder needs four token_taps"),
        ({"norm_op": None}, "norm_op is None"),
    ],
)
def test_settings_that_cannot_be_built_are_named(build_network, overrides, message):
    with pytest.raises(MSTKDError, match=message):
        build_network((32, 32), overrides=overrides)


def test_tokens_of_eight_voxels(build_network):
    """Every rung doubles the grid along such an axis, up to the bottleneck's."""
    network = build_network((64, 64), max_stages=3, overrides={"token_patch_size": [8, 4]})
    taps = network(torch.randn(1, 4, 64, 64), return_taps=True)
    assert network.token_grid == (2, 4)
    assert [level.shape[2:] for level in taps.inner["token_features"]] == [(16, 16), (8, 8), (4, 4), (2, 4)]
    assert taps.inner["encoded"].shape[2:] == (16, 16)


@pytest.mark.parametrize(("taps", "layers"), [([1], 1), ([1, 2], 2), ([1, 2, 3, 4, 5], 5)])
def test_any_number_of_taps(build_network, taps, layers):
    overrides = {"token_taps": taps, "token_layers": layers, "token_patch_size": [4, 2]}
    network = build_network((64, 64), max_stages=3, overrides=overrides, deep_supervision=False)
    outputs = network(torch.randn(1, 4, 64, 64), return_taps=True)
    assert len(outputs.inner["attention"]) == len(outputs.inner["token_features"]) == len(taps)
    outputs.logits.mean().backward()
    assert not [k for k, p in network.named_parameters() if p.requires_grad and p.grad is None]
