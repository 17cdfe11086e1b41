"""SMU-Net's network: equal to the released code, and fit for any plan."""

from __future__ import annotations

import pytest
import torch
from smunet_golden import NETWORK, SHAPES, assert_same, normal, weights
from torch import Tensor

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.smunet.network import SMUNet, released

PATCH = (32, 48, 40)
INPUT = normal("input", (1, 4, *PATCH))
MASKS = ("1000", "0011", "1101")
# Golden name → our module, and the index in its output where that is a tuple.
STAGES = {
    "c1": ("encoder.stages.0", 1),
    "c2": ("encoder.stages.1", 1),
    "c2d": ("encoder.stages.2", 0),
    "c2d_p": ("pool", None),
    "c3": ("encoder.stages.2", 1),
    "c3d": ("encoder.stages.3", 0),
    "content": ("bottleneck_blocks", None),
    "style": ("style_conv", None),
    "fused": ("merge_conv", None),
    "d4": ("decoder.stages.0", None),
    "d3": ("decoder.stages.1", None),
    "d2": ("decoder.stages.2", None),
}


def golden_network(part: str, input_channels: int) -> SMUNet:
    network = released(PATCH, input_channels)
    shapes = dict(SHAPES["full"])
    shapes["unet.conv1a.weight"] = [16, input_channels, 3, 3, 3]
    network.load_released_state_dict(weights(part, shapes))
    return network


@torch.no_grad()
def outputs(network: SMUNet, x: Tensor) -> dict[str, Tensor]:
    taps = network(x, return_taps=True)
    return {"logits": taps.logits, "output": taps.logits.sigmoid(), **taps.inner}


@pytest.mark.parametrize(("part", "shown"), [("full", slice(0, 4)), ("missing", slice(0, 1))])
def test_every_stage_of_both_released_networks(part, shown):
    network = golden_network(part, len(range(4)[shown]))
    found: dict[str, Tensor] = {}

    def keep(name, index):
        def hook(module, inputs, output):
            found[name] = output if index is None else output[index]

        return hook

    for name, (module, index) in STAGES.items():
        network.get_submodule(module).register_forward_hook(keep(name, index))
    found |= outputs(network, INPUT[:, shown])
    arrays = {n for n in NETWORK if n.startswith(f"{part}/") and not n.endswith(("_mean", "_std"))}
    assert {f"{part}/{name}" for name in found} == arrays
    for name, ours in found.items():
        assert_same(ours, f"{part}/{name}")


def test_a_student_of_two_channels():
    for name, ours in outputs(golden_network("pair", 2), INPUT[:, [0, 2]]).items():
        assert_same(ours, f"pair/{name}")


def test_a_student_that_sees_zeros_for_absent_modalities():
    network = golden_network("zerofill", 4)
    for mask in MASKS:
        shown = torch.tensor([float(bit) for bit in mask]).view(1, 4, 1, 1, 1)
        for name, ours in outputs(network, INPUT * shown).items():
            assert_same(ours, f"zerofill_{mask}/{name}")


def test_training_mode_without_dropout_is_evaluation():
    network = golden_network("full", 4).train()
    network.dropout.p = 0.0
    assert_same(outputs(network, INPUT)["output"], "full_train_p0/output")


def test_the_released_style_discriminator():
    network = released()
    assert (network.bottleneck_channels, network.bottleneck_size) == (128, (20, 24, 16))
    discriminator = StyleDiscriminator(network.bottleneck_channels, network.bottleneck_size)
    discriminator.load_released_state_dict(weights("d_style", SHAPES["d_style"]))
    for name, size in {"released": (20, 24, 16), "larger": (21, 32, 26)}.items():
        style = normal(f"d_input_{name}", (1, 128, *size))
        with torch.no_grad():
            assert_same(discriminator(style), f"d_style/{name}")


@pytest.mark.parametrize(("part", "channels", "count"), [("full", 4, 4_778_212), ("missing", 1, 4_776_916)])
def test_keys_shapes_and_parameters_are_the_authors(part, channels, count):
    with torch.device("meta"):
        network = released(input_channels=channels)
    names = network.released_names()
    assert {names[key]: list(t.shape) for key, t in network.state_dict().items()} == SHAPES[part]
    assert sum(p.numel() for p in network.parameters()) == count


def test_checkpoints_of_data_parallel_load_and_others_are_refused():
    network = small()
    theirs = {f"module.{network.released_names()[k]}": v + 1 for k, v in network.state_dict().items()}
    expected = {key: tensor + 1 for key, tensor in network.state_dict().items()}
    network.load_released_state_dict(theirs)
    torch.testing.assert_close(dict(network.state_dict()), expected)
    theirs.pop("module.unet.convc.weight")
    with pytest.raises(MSTKDError, match=r"misses unet\.convc\.weight"):
        network.load_released_state_dict(theirs)


def small(input_channels: int = 4, patch=(16, 24, 16), strides=None, classes: int = 3, **kwargs) -> SMUNet:
    torch.manual_seed(0)
    dims = len(patch)
    strides = strides or [[1] * dims, *[[2] * dims] * 3]
    sizes = {"patch_size": patch, "strides": strides, "base_features": 8, **kwargs}
    return SMUNet(input_channels, classes, **sizes).eval()


@pytest.mark.parametrize(
    ("channels", "patch", "strides"),
    [
        (1, (16, 16, 16), None),
        (7, (16, 16, 16), None),
        (4, (13, 10, 7), None),
        (2, (33, 18), None),
        (4, (8, 24, 24), [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]),
        (4, (9, 11, 10), [[1, 1, 1], [1, 2, 2], [2, 3, 3]]),
        (4, (8, 8), [[1, 1], [2, 2]]),
    ],
    ids=["1 modality", "7 modalities", "odd", "2D", "anisotropic", "3 stages", "2 stages"],
)
def test_any_plan_gives_logits_of_the_patch_and_finite_gradients(channels, patch, strides):
    network = small(channels, patch, strides)
    taps = network(torch.randn(2, channels, *patch), return_taps=True)
    assert taps.logits.shape == (2, 3, *patch)
    assert {name: tuple(t.shape) for name, t in taps.inner.items()} == dict.fromkeys(
        ("style", "content"), (2, network.bottleneck_channels, *network.bottleneck_size)
    )
    taps.logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@torch.no_grad()
def test_an_absent_modality_has_no_influence_and_a_batch_equals_its_samples():
    network = small()
    x = torch.randn(2, 4, 16, 24, 16)
    x[0, 1:3] = 0
    x[1, 0] = 0
    batch = network(x)
    torch.testing.assert_close(batch[:1], network(x[:1]))
    torch.testing.assert_close(batch[1:], network(x[1:]))
    network.encoder.stages[0].conv.weight[:, 1:3] += 1
    torch.testing.assert_close(network(x[:1]), batch[:1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base_features": 12}, "base_features is 12"),
        ({"strides": [[1, 1, 1]]}, "give 2 stages or more"),
        ({"strides": [[1, 1], [2, 2]]}, "one number for each of 2 or 3 axes"),
    ],
)
def test_what_no_network_can_be_built_from_is_refused(kwargs, message):
    with pytest.raises(MSTKDError, match=message):
        small(**kwargs)
