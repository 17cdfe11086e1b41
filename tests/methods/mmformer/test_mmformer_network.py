"""mmFormer against numbers of the authors' released code, and its habits in this project.

tests/data/mmformer: sub-sampled outputs of github.com/YaoZhang93/mmFormer, commit b18663a, on CPU in
float32, for weights and inputs made by the rule of ``golden_weight``; ``network_A`` at 128³ voxels,
``network_A_small`` at 48³, ``network_A_small_fixed`` the latter with the tokens' order mended.
``manifest.json`` has the sub-sampling, mean and standard deviation of the whole tensors, ``state_dict.json``
the released keys and shapes.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy
from nnunetv2_mstkd.methods.mmformer import MMFormer, released
from nnunetv2_mstkd.methods.mmformer.network import _released_names
from nnunetv2_mstkd.methods.mmformer.transformer import TransformerLayer

DATA = Path(__file__).resolve().parents[2] / "data" / "mmformer"
SHAPES = json.loads((DATA / "state_dict.json").read_text())
MANIFEST = json.loads((DATA / "manifest.json").read_text())
MODALITIES = ("flair", "t1ce", "t1", "t2")
MASKS = ("1111", "0100", "1001", "1101")
SMALL_PATCH, SMALL_TOKENS = (48, 48, 48), 27
TOLERANCE = 5e-4  # of an array's standard deviation


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, shape) -> torch.Tensor:
    return torch.randn(shape, generator=generator(f"A/mmformer/{name}"))


def golden_weight(key: str, shape) -> torch.Tensor:
    z = normal(key, shape)
    if key.endswith("pos"):
        return 0.5 * z
    if z.ndim >= 2:
        return z * (shape[0] / z.numel()) ** 0.5
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def golden_network(tokens: int, **arguments) -> MMFormer:
    network = released(**arguments)
    shapes = {key: [1, tokens, 512] if key.endswith("_pos") else shape for key, shape in SHAPES.items()}
    network.load_released_state_dict({f"module.{k}": golden_weight(k, s) for k, s in shapes.items()})
    return network


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(DATA / f"{name}.npz"))


def bools(*masks: str) -> torch.Tensor:
    return torch.tensor([[digit == "1" for digit in mask] for mask in masks])


@pytest.fixture(scope="module")
def network() -> MMFormer:
    return golden_network(SMALL_TOKENS, patch_size=SMALL_PATCH)


def inner_modules(network: MMFormer) -> dict[str, nn.Module]:
    """Name in the golden file → module whose (first) output that is; MASK stands for the mask."""
    modules: dict[str, nn.Module] = {}
    tokens, decoder = network.token_fusion, network.decoder
    for modality, encoder, within in zip(MODALITIES, network.encoders, tokens.within, strict=True):
        modules |= {f"any.enc_{modality}_x{i}": level for i, level in enumerate(encoder.levels, start=1)}
        modules[f"any.intra_{modality}_tokens"] = within.layer
    modules |= {"MASK.inter_tokens": tokens.across, "MASK.x5_inter": tokens.reduce}
    modules |= {f"MASK.RFM{i}": fusion for i, fusion in enumerate(decoder.fusions, start=1)}
    modules |= {f"MASK.d{i}_c1": up for i, up in enumerate(decoder.ups, start=1)}
    modules |= {f"MASK.d{i}_out": join for i, join in enumerate(decoder.joins, start=1)}
    modules |= {f"MASK.head_d{i}_logits": head for i, head in enumerate(decoder.scale_heads, start=1)}
    # Its first run is FLAIR's.
    separate = network.separate_decoder.joins
    return modules | {f"any.sep_flair_d{i}_out": join for i, join in enumerate(separate, start=1)}


@torch.no_grad()
def everything(network: MMFormer, x: torch.Tensor, mask: str) -> dict[str, torch.Tensor]:
    """What the golden file has for one mask, under its names."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: (seen.setdefault(name, output), None)[1]
        )
        for name, module in inner_modules(network).items()
    ]
    taps = network(x, return_taps=True, present=bools(mask))
    for hook in hooks:
        hook.remove()
    for modality, logits in zip(MODALITIES, taps.inner["separate"], strict=True):
        seen |= {f"any.sep_{modality}_logits": logits, f"any.sep_{modality}_pred": logits.softmax(1)}
    for i, logits in enumerate(taps.inner["scales"], start=1):
        seen[f"MASK.head_d{i}_pred_up"] = logits.softmax(1)
    seen |= {"MASK.logits": taps.logits, "MASK.pred": taps.logits.softmax(1)}
    return {name.replace("MASK", f"m{mask}"): value for name, value in seen.items()}


def check_arrays(found: dict[str, torch.Tensor], name_of_file: str, prefixes: tuple[str, ...]) -> None:
    manifest, golden = MANIFEST[name_of_file], golden_arrays(name_of_file)
    names = [name for name in manifest if name.startswith(prefixes)]
    assert set(names) <= found.keys()
    for name in names:
        entry = manifest[name]
        tolerance, value = TOLERANCE * entry["std"], found[name]
        assert list(value.shape) == entry["shape"], name
        sampled = value[tuple(slice(None, None, step) for step in entry["strides"])]
        np.testing.assert_allclose(sampled, golden[name], rtol=0, atol=tolerance, err_msg=name)
        assert float(value.mean()) == pytest.approx(entry["mean"], abs=tolerance), name
        assert float(value.std(correction=0)) == pytest.approx(entry["std"], abs=tolerance), name


SLOW = {mask: pytest.param(mask, marks=pytest.mark.slow) for mask in MASKS}


@pytest.mark.parametrize("mask", ["1111", *(SLOW[mask] for mask in MASKS[1:])])
def test_every_released_array_of_a_small_patch(network, mask):
    found = everything(network, normal("input_small", (1, 4, *SMALL_PATCH)), mask)
    check_arrays(found, "network_A_small", (f"m{mask}.", "any."))


@pytest.mark.parametrize("mask", [SLOW["1111"], "0100", *(SLOW[mask] for mask in MASKS[2:])])
def test_every_array_of_the_mended_token_order(network, monkeypatch, mask):
    monkeypatch.setattr(network.token_fusion, "token_order", "mended")
    found = everything(network, normal("input_small", (1, 4, *SMALL_PATCH)), mask)
    check_arrays(found, "network_A_small_fixed", (f"m{mask}.",))


@pytest.fixture(scope="module")
def network_of_released_size() -> MMFormer:
    return golden_network(512)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["1111", "0100"])  # all of them at the small patch above
def test_every_released_array(network_of_released_size, mask):
    found = everything(network_of_released_size, normal("input", (1, 4, 128, 128, 128)), mask)
    check_arrays(found, "network_A", (f"m{mask}.", "any."))


def released_terms(taps, classes: torch.Tensor) -> dict[str, torch.Tensor]:
    target = F.one_hot(classes, 4).movedim(-1, 1)
    outputs = {"fuse": [taps.logits], "sep": taps.inner["separate"], "prm": taps.inner["scales"]}
    terms = {}
    for name, logits in outputs.items():
        given = [{"probabilities": of_one.softmax(1), "target": target} for of_one in logits]
        terms[f"{name}_ce"] = sum(weighted_cross_entropy(**pair) for pair in given)
        terms[f"{name}_dice"] = sum(soft_dice(**pair) for pair in given)
    return terms | {"total": sum(terms.values())}


def golden_classes(name: str, shape) -> torch.Tensor:
    u = torch.rand(shape, generator=generator(f"A/mmformer/{name}"))
    return (u > 0.70).long() + (u > 0.80).long() + (u > 0.93).long()


@pytest.mark.slow
@torch.no_grad()
def test_released_loss_of_the_released_size(network_of_released_size):
    taps = network_of_released_size(normal("input", (1, 4, 128, 128, 128)), return_taps=True)
    terms, golden = (
        released_terms(taps, golden_classes("target", (1, 128, 128, 128))),
        golden_arrays("network_A"),
    )
    for name, value in terms.items():
        assert value.item() == pytest.approx(golden[f"loss.{name}"].item(), rel=1e-5), name


@pytest.mark.slow
def test_released_training_loss_and_gradients(network):
    golden = golden_arrays("network_A_small")
    x, present = normal("input_batch", (2, 4, *SMALL_PATCH)), bools("1011", "0100")
    taps = network(x, return_taps=True, present=present)
    terms = released_terms(taps, golden_classes("target_batch", (2, *SMALL_PATCH)))
    for name, value in terms.items():
        assert value.item() == pytest.approx(golden[f"loss.{name}"].item(), rel=1e-5), name
    try:
        terms["total"].backward()
        check_gradients(network, golden)
    finally:
        network.zero_grad()


def check_gradients(network: MMFormer, golden: dict[str, np.ndarray]) -> None:
    keys = _released_names(network)
    gradients = {keys[key]: parameter.grad for key, parameter in network.named_parameters()}
    norms, dots = golden["grad_norm"], golden["grad_dot"]
    noise = 1e-5 * np.nanmax(norms)
    for key, norm, dot in zip(SHAPES, norms, dots, strict=True):
        if np.isnan(norm):
            assert key not in gradients, key
            continue
        found = gradients.pop(key)
        if norm <= noise:
            assert float(found.norm()) <= noise, key
            continue
        assert float(found.norm()) == pytest.approx(norm, rel=0.02), key
        found_dot = float((found * normal(f"direction/{key}", found.shape)).sum())
        assert found_dot == pytest.approx(dot, abs=0.03 * norm), key
    assert not gradients


def test_released_losses():
    golden = {name: torch.from_numpy(np.asarray(x)) for name, x in golden_arrays("losses_A").items()}
    losses = {"softmax_weighted_loss": weighted_cross_entropy, "dice_loss": soft_dice}
    for case in ("base", "confident", "class_absent", "single"):
        target = F.one_hot(golden[f"{case}.target_classes"].long(), 4).movedim(-1, 1)
        for name, function in losses.items():
            logits = golden[f"{case}.logits"].clone().requires_grad_()
            loss = function(probabilities=logits.softmax(1), target=target)
            torch.testing.assert_close(loss, golden[f"{case}.{name}"].to(loss), rtol=1e-5, atol=0)
            (gradient,) = torch.autograd.grad(loss, logits)
            expected = golden[f"{case}.{name}_grad_logits"]
            torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_parameters(network):
    # The released 36,654,416 less four convolutions that never run, more or less the tables of positions.
    unused, fewer_cells = 4 * (128 * 512 + 128), 4 * (512 - SMALL_TOKENS) * 512
    assert sum(p.numel() for p in network.parameters()) == 36_654_416 - unused - fewer_cells
    assert len(network.state_dict()) == 287 - 8
    assert sum(p.numel() for p in network.separate_decoder.parameters()) == 593_356
    assert not network.training


def test_checkpoints_that_do_not_fit():
    with torch.device("meta"):
        network, wider, other_patch = released(), released(input_channels=5), released((48, 48, 48))
    weights = {key: torch.empty(shape, device="meta") for key, shape in SHAPES.items()}
    network.load_released_state_dict(weights)
    with pytest.raises(MSTKDError, match="misses"):
        wider.load_released_state_dict(weights)
    with pytest.raises(
        MSTKDError, match=r"another shape for flair_pos .* build it for the checkpoint's patch"
    ):
        other_patch.load_released_state_dict(weights)
    with pytest.raises(MSTKDError, match="misses flair_pos"):
        network.load_released_state_dict(dict(list(weights.items())[1:]))
    with pytest.raises(MSTKDError, match="has unknown flair_decode"):
        network.load_released_state_dict(weights | {"flair_decode": weights["flair_pos"]})


def test_attention_is_the_plain_one():
    torch.manual_seed(0)
    layer, tokens = TransformerLayer(16).eval(), torch.randn(2, 5, 16)
    x = layer.attention_norm(tokens)
    heads = layer.attention.queries_keys_values(x).view(2, 5, 3, 8, 2).permute(2, 0, 3, 1, 4)
    probabilities = (heads[0] @ heads[1].transpose(-1, -2) / 2**0.5).softmax(-1)
    mixed = tokens + layer.attention.out((probabilities @ heads[2]).transpose(1, 2).reshape(2, 5, 16))
    expected = mixed + layer.mlp(layer.mlp_norm(mixed))
    torch.testing.assert_close(layer(tokens), expected)
    assert not torch.allclose(layer.train()(tokens), expected)
    assert [type(m) for m in layer.modules()].count(nn.Dropout) == 5


def small(modalities=4, classes=3, patch=(16, 16, 16), strides=None, **settings) -> MMFormer:
    dims = len(patch)
    strides = strides or [[1] * dims] + [[2] * dims] * 3
    sizes = {"base_features": 4, "token_features": 16} | settings
    network = MMFormer(modalities, classes, patch_size=patch, strides=strides, **sizes).eval()
    for within in network.token_fusion.within:
        nn.init.normal_(within.positions)
    return network


def outputs_of(taps) -> list[torch.Tensor]:
    return [taps.logits, *taps.inner["separate"], *taps.inner["scales"]]


def test_the_mended_order_takes_any_plan():
    torch.manual_seed(2)
    network = small(7, 2, (20, 17), [[1, 1]] + [[2, 2]] * 5, token_order="mended")
    x = torch.randn(2, 7, 20, 17)
    outputs = outputs_of(network(x, return_taps=True))
    assert all(out.shape == (2, 2, 20, 17) and out.isfinite().all() for out in outputs)


def test_positions_of_another_grid():
    torch.manual_seed(3)
    network = small(patch=(16, 32))
    of_one = network.token_fusion.within[0]
    assert of_one.positions.shape == (1, 2 * 4, 16)
    assert of_one.positions_on((2, 4)) is of_one.positions
    rows = torch.arange(2.0).repeat_interleave(4).view(1, 8, 1).expand(1, 8, 16)
    of_one.positions.data.copy_(rows)
    taller = of_one.positions_on((4, 4)).view(4, 4, 16)
    torch.testing.assert_close(taller[:, 1, 5], torch.tensor([0, 0.25, 0.75, 1]))
    assert network(torch.randn(1, 4, 32, 32)).shape == (1, 3, 32, 32)


def test_cells_get_the_tokens_of_their_own_place():
    """With identities for layers and positions of zero, only the order of tokens is left."""
    tokens = torch.arange(3 * 4, dtype=torch.float32).view(1, 3, 4)  # of 3 modalities
    found = {}
    for order in ("released", "mended"):
        fusion = small(3, 2, (16, 16), base_features=1, token_features=8, token_order=order).token_fusion
        fusion.across = nn.Identity()
        fusion.reduce = nn.Identity()
        for m, within in enumerate(fusion.within):
            within.positions.data.zero_()
            within.layer.forward = lambda _, m=m: tokens[:, m, :, None].expand(1, 4, 8)
        maps = [torch.zeros(1, 8, 2, 2)] * 3
        found[order] = fusion(maps, bools("111")).flatten(2)[0, ::8].T.tolist()  # cell → a value per token
    assert found["mended"] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    assert found["released"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_sizes_that_no_network_fits():
    with pytest.raises(MSTKDError, match="token_features is 20; give a multiple of 8"):
        small(token_features=20)
    with pytest.raises(MSTKDError, match="token_order is 'right'; give one of released, mended"):
        small(token_order="right")
