"""MSTKDNet.official() against numbers of the authors' released code.

tests/data/official_network_A.npz: sub-sampled outputs of github.com/Quanato607/MST-KDNet, commit 2c77373
(Apache-2.0), in eval mode on CPU in float32, for weights and input made by the rule of ``golden_weight``;
``NAME_mean`` and ``NAME_std`` are of the whole tensor. tests/data/official_state_dict.json: its keys and
shapes. Tolerance: 1e-4 of the tensor's standard deviation.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from places import DATA

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.methods.mstkd.official_weights import official_network_names

OFFICIAL_SHAPES = json.loads((DATA / "official_state_dict.json").read_text())
GOLDEN = dict(np.load(DATA / "official_network_A.npz"))
LAYERS = (3, 6, 9, 12)

# Every array of the golden file: name → sub-sampling (slices over B, C, X, Y, Z or B, heads, N, N).
SUBSAMPLING = {
    "logits": np.s_[:, :, ::16, ::16, ::16],
    **{name: np.s_[:, ::8, ::4, ::4, ::4] for name in ("style", "content", "encoded")},
    **{f"token_features_z{layer}": np.s_[:, ::16, ::4, ::4, ::4] for layer in LAYERS},
    **{f"attention_layer{layer}": np.s_[:, ::3, ::10, ::10] for layer in LAYERS},
    "style_discriminator_out": np.s_[:],
}

# Parameters per top-level module of the released code; the token decoder's and the transformer's separately.
PARAMETERS = {
    "conv1a": 1_744,
    "conv1b": 13_920,
    "ds1": 13_856,
    "conv2a": 55_488,
    "conv2b": 55_488,
    "ds2": 55_360,
    "conv3a": 221_568,
    "conv3b": 221_568,
    "ds3": 221_312,
    **dict.fromkeys(("conv4a", "conv4b", "conv4c", "conv4d"), 885_504),
    "Unetr.transformer": 72_553_728,
    "Unetr.decoder0": 166_176,
    "Unetr.decoder3": 13_749_760,
    "Unetr.decoder6": 13_044_736,
    "Unetr.decoder9": 10_225_664,
    "Unetr.decoder12_upsampler": 3_146_240,
    "Unetr.decoder9_upsampler": 29_364_992,
    "Unetr.decoder6_upsampler": 5_572_224,
    "Unetr.decoder3_upsampler": 1_393_472,
    "Unetr.decoder0_header": 340_480,
    "up4conva": 8_256,
    "up4convb": 221_568,
    "up3conva": 2_080,
    "up3convb": 55_488,
    "up2conva": 528,
    "up2convb": 13_920,
    "convc": 41_088,
    "convco": 32_896,
    "up1conv": 68,
}


def normal(name: str, shape) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def golden_weight(prefix: str, key: str, shape) -> torch.Tensor:
    """Value of an official key, seeded by its name; the first rule that matches counts."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    z = normal(prefix + key, shape)
    if key.endswith("position_embeddings"):
        return z.mul_(0.02)
    if key.endswith("running_mean"):
        return z.mul_(0.1)
    if key.endswith("running_var"):
        return 1 + 0.1 * z.abs()
    if z.ndim >= 2:
        return z.mul_((shape[0] / z.numel()) ** 0.5)
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def golden_weights(part: str, prefix: str) -> dict[str, torch.Tensor]:
    return {key: golden_weight(prefix, key, shape) for key, shape in OFFICIAL_SHAPES[part].items()}


@pytest.fixture(scope="module")
def meta_network() -> MSTKDNet:
    """Shapes without storage."""
    with torch.device("meta"):
        return MSTKDNet.official()


@pytest.fixture(scope="module")
def golden_outputs() -> dict[str, torch.Tensor]:
    """Our outputs for the golden weights and input; needs about 3 GB."""
    with torch.device("meta"):
        network = MSTKDNet.official()
    network.to_empty(device="cpu").eval()
    network.load_released_state_dict(golden_weights("network", "A/"))
    discriminator = StyleDiscriminator.official()
    discriminator.load_released_state_dict(golden_weights("style_discriminator", "A/disc/"))
    with torch.no_grad():
        taps = network(normal("A/input", (1, 4, 160, 192, 128)), return_taps=True)
        judged = discriminator(taps.inner["style"])
    outputs = {
        "logits": taps.logits,
        "style": taps.inner["style"],
        "content": taps.inner["content"],
        "encoded": taps.inner["encoded"],
    }
    outputs |= {f"attention_layer{n}": a for n, a in zip(LAYERS, taps.inner["attention"], strict=True)}
    outputs |= {f"token_features_z{n}": f for n, f in zip(LAYERS, taps.inner["token_features"], strict=True)}
    return outputs | {"style_discriminator_out": judged}


def test_every_golden_array_is_compared():
    arrays = {name.removesuffix("_mean").removesuffix("_std") for name in GOLDEN}
    assert arrays == set(SUBSAMPLING)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBSAMPLING)
def test_output_equals_the_released_code(golden_outputs, name):
    ours = golden_outputs[name]
    # The discriminator's single logit has no spread of its own.
    scale = float(GOLDEN.get(f"{name}_std", 1.0))
    np.testing.assert_allclose(ours[SUBSAMPLING[name]].numpy(), GOLDEN[name], rtol=0, atol=1e-4 * scale)
    if f"{name}_std" in GOLDEN:
        assert float(ours.mean()) == pytest.approx(float(GOLDEN[f"{name}_mean"]), abs=1e-4 * scale)
        assert float(ours.std()) == pytest.approx(scale, abs=1e-4 * scale)


def test_parameter_counts(meta_network):
    names = official_network_names(meta_network)
    counts: Counter[str] = Counter()
    for key, parameter in meta_network.named_parameters():
        parts = names[key].split(".")
        counts[".".join(parts[:2]) if parts[0] == "Unetr" else parts[0]] += parameter.numel()
    assert counts == PARAMETERS
    assert sum(counts.values()) == 154_335_684
    assert len(list(meta_network.parameters())) == 403
    assert sum(buffer.numel() for buffer in meta_network.buffers()) == 9_425


def test_only_the_layer_that_is_never_called_is_frozen(meta_network):
    frozen = {key for key, p in meta_network.named_parameters() if not p.requires_grad}
    assert frozen == {f"tokens.transformer.encoder_norm.{leaf}" for leaf in ("weight", "bias")}


def test_keys_and_shapes_are_the_authors(meta_network):
    names = official_network_names(meta_network)
    shapes = {names[key]: list(tensor.shape) for key, tensor in meta_network.state_dict().items()}
    assert shapes == OFFICIAL_SHAPES["network"]


def meta_weights(part: str = "network") -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in OFFICIAL_SHAPES[part].items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("convc.weight"), r"misses convc\.weight;"),
        (lambda w: w.update(convd=torch.empty(1)), r"has unknown convd;"),
        (
            lambda w: w.update({"up1conv.weight": torch.empty(3, 16, 1, 1, 1)}),
            r"another shape for up1conv\.weight \(3, 16, 1, 1, 1\) instead of \(4, 16, 1, 1, 1\)",
        ),
        (lambda w: w.clear(), r"misses .* and 450 more"),
    ],
    ids=["missing", "unknown", "shape", "empty"],
)
def test_weights_that_do_not_fit_are_named(meta_network, change, message):
    weights = meta_weights()
    change(weights)
    with pytest.raises(MSTKDError, match=message):
        meta_network.load_released_state_dict(weights)


def test_nnunet_preset_refuses_official_weights(build_network):
    with pytest.raises(MSTKDError, match=r"MSTKDNet\.official\(\)"):
        build_network((16, 16)).load_released_state_dict({})


def test_discriminator_weights_that_do_not_fit_are_named():
    weights = meta_weights("style_discriminator")
    weights["6.weight"] = torch.empty(1, 256, 2, 2, 2)
    with pytest.raises(MSTKDError, match=r"6\.weight \(1, 256, 2, 2, 2\) instead of \(1, 256, 2, 3, 2\)"):
        StyleDiscriminator.official().load_released_state_dict(weights)


@pytest.mark.parametrize("patch", [(40, 40, 40), (128, 160, 112), (96, 80)])
def test_other_patches_and_channels(patch):
    with torch.device("meta"):
        network = MSTKDNet.official(input_channels=2, num_classes=7, patch_size=patch)
        assert network(torch.empty(2, 2, *patch)).shape == (2, 7, *patch)


def test_deep_supervision_gives_a_list_of_the_one_output(meta_network):
    x = torch.empty(1, 4, 64, 64, 64, device="meta")
    meta_network.decoder.deep_supervision = True
    outputs = meta_network(x)
    meta_network.decoder.deep_supervision = False
    assert [tuple(o.shape) for o in outputs] == [(1, 4, 64, 64, 64)]


@pytest.mark.slow
def test_gradient_reaches_every_trainable_parameter():
    network = MSTKDNet.official(patch_size=(32, 32, 48))
    network(torch.randn(1, 4, 32, 32, 48)).square().mean().backward()
    assert not [k for k, p in network.named_parameters() if p.requires_grad and p.grad is None]
