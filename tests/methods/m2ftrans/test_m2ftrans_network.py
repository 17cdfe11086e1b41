"""M2FTrans against numbers of the authors' released code, and its habits in this project.

tests/data/m2ftrans: sub-sampled outputs of github.com/Jun-Jie-Shi/M2FTrans (v2), commit 03a0b28, on CPU in
float32, for weights and inputs made by the rule of ``golden_weight``; ``manifest.json`` has the sub-sampling,
mean and standard deviation of the whole tensors, ``state_dict.json`` the released keys and shapes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy
from nnunetv2_mstkd.methods.m2ftrans import M2FTrans, released
from nnunetv2_mstkd.methods.m2ftrans.attention import attend
from nnunetv2_mstkd.methods.m2ftrans.network import _released_names

DATA = Path(__file__).resolve().parents[2] / "data" / "m2ftrans"
SHAPES = json.loads((DATA / "state_dict.json").read_text())
MANIFEST = json.loads((DATA / "manifest.json").read_text())
SMALL = dict(np.load(DATA / "network_A_small.npz"))
MODALITIES = ("flair", "t1ce", "t1", "t2")
MASKS = ("1111", "0100", "1001", "1101")
PATCH = (48, 64, 32)
TOLERANCE = 5e-4  # of an array's standard deviation


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, shape) -> Tensor:
    return torch.randn(shape, generator=generator(f"A/m2ftrans/{name}"))


def golden_weight(key: str, shape) -> Tensor:
    z = normal(key, shape)
    if key.endswith("pos"):
        return 0.5 * z
    if key == "fusion":
        return z
    if z.ndim >= 2:
        return z * (shape[0] / z.numel()) ** 0.5
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def golden_network(patch, shapes) -> M2FTrans:
    network = released(patch)
    network.load_released_state_dict({f"module.{k}": golden_weight(k, s) for k, s in shapes.items()})
    return network


def bools(*masks: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in mask] for mask in masks])


@pytest.fixture(scope="module")
def small_shapes() -> dict[str, list[int]]:
    """As released, for 24 tokens per modality."""
    return SHAPES | {"pos": [1, 120, 128], "fusion": [1, 24, 128]}


@pytest.fixture(scope="module")
def network(small_shapes) -> M2FTrans:
    return golden_network(PATCH, small_shapes)


class Watch:
    """Keeps what modules put out, and what they are given, under names."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}
        self.hooks: list = []

    def outputs(self, name: str, module: nn.Module, take: Callable = lambda output: output) -> None:
        keep = self.seen.setdefault(name, [])
        self.hooks.append(
            module.register_forward_hook(lambda _, inputs, output: (keep.append(take(output)), None)[1])
        )

    def inputs(self, name: str, module: nn.Module, take: Callable = lambda x: x) -> None:
        keep = self.seen.setdefault(name, [])
        self.hooks.append(
            module.register_forward_pre_hook(lambda _, inputs: (keep.append(take(*inputs)), None)[1])
        )

    def done(self) -> dict[str, list[Tensor]]:
        for hook in self.hooks:
            hook.remove()
        return self.seen


def watch(network: M2FTrans) -> Watch:
    """Look at everything that the golden files have; MASK stands for the mask."""
    watching = Watch()
    for modality, encoder in zip(MODALITIES, network.encoders, strict=True):
        for i, level in enumerate(encoder.levels, start=1):
            watching.outputs(f"any.enc_{modality}_x{i}", level)
    for i, join in enumerate(network.separate_decoder.joins, start=1):
        watching.outputs(f"any.sep_flair_d{i}_out", join)  # its first run is FLAIR's
    for j, layer in enumerate(network.transformer.layers):
        watching.inputs(f"MASK.trans{j}_after_attention", layer.mlp, lambda x: x.flatten(1, 2))
        watching.outputs(f"MASK.trans{j}_after_mlp", layer, lambda found: found[0].flatten(1, 2))
        watching.outputs(f"MASK.trans{j}_attention", layer.attention.attention_dropout)
    watching.outputs("MASK.spatial_weights", network.transformer, lambda found: found[2].flatten(2))
    decoder = network.decoder
    for i, fusion in enumerate(decoder.fusions, start=1):
        watching.hooks.append(
            fusion.register_forward_pre_hook(
                lambda _, inputs, name=f"MASK.reweighted_x{i}": watching.seen.update({name: [inputs[1]]})
            )
        )
        if i <= 3:
            watching.outputs(f"MASK.RFM{i}", fusion)
            continue
        for n, layer in enumerate(fusion.layers):
            watching.inputs(f"MASK.CT{i}_{n}_attended", layer.mlp)
            watching.outputs(f"MASK.CT{i}_{n}_kernels", layer.mlp)
        watching.outputs(f"MASK.CT{i}_0_maps", fusion.layers[0], lambda found: found[1])
    for i, head in enumerate(decoder.scale_heads, start=1):
        watching.outputs(f"MASK.prm{i}_logits", head)
    for i, up in enumerate(decoder.ups, start=1):
        watching.outputs(f"MASK.d{i}_c1", up)
    for i, join in enumerate(decoder.joins, start=1):
        watching.outputs(f"MASK.d{i}_out", join)
    return watching


def whole_attention(own: Tensor, fusion: Tensor) -> Tensor:
    """(B, heads, 5N, 5N) of all tokens, as the released code has it, from the two parts that are computed."""
    blocks = [torch.block_diag(*own[0, :, head]) for head in range(own.shape[2])]
    modalities = torch.stack(blocks)[None]
    modalities = F.pad(modalities, (0, fusion.shape[-1] - modalities.shape[-1]))
    return torch.cat((modalities, fusion), dim=2)


@torch.no_grad()
def everything(network: M2FTrans, x: Tensor, mask: str) -> dict[str, Tensor]:
    """What the golden files have for one mask, under their names."""
    watching = watch(network)
    taps = network(x, return_taps=True, present=bools(mask))
    both = watching.done()
    seen = {
        name: whole_attention(*tensors) if name.endswith("_attention") and len(tensors) == 2 else tensors[0]
        for name, tensors in both.items()
    }
    for modality, logits in zip(MODALITIES, taps.inner["separate"], strict=True):
        seen |= {f"any.sep_{modality}_logits": logits, f"any.sep_{modality}_pred": logits.softmax(1)}
    for i, logits in enumerate(taps.inner["scales"], start=1):
        seen[f"MASK.prm{i}_pred_up"] = logits.softmax(1)
    seen |= {"MASK.logits": taps.logits, "MASK.pred": taps.logits.softmax(1)}
    return {name.replace("MASK", f"m{mask}"): value for name, value in seen.items()}


def compare_arrays(found: dict[str, Tensor], mask: str, manifest: dict, golden: dict) -> None:
    names = [name for name in manifest if name.startswith((f"m{mask}.", "any."))]
    assert set(names) <= found.keys()
    for name in names:
        entry = manifest[name]
        tolerance, value = TOLERANCE * entry["std"], found[name]
        assert list(value.shape) == entry["shape"], name
        sampled = value[tuple(slice(None, None, step) for step in entry["strides"])]
        np.testing.assert_allclose(sampled, golden[name], rtol=0, atol=tolerance, err_msg=name)
        assert float(value.mean()) == pytest.approx(entry["mean"], abs=tolerance), name
        assert float(value.std(correction=0)) == pytest.approx(entry["std"], abs=tolerance), name


@pytest.mark.parametrize("mask", [*MASKS[:2], *(pytest.param(m, marks=pytest.mark.slow) for m in MASKS[2:])])
def test_every_released_array(network, mask):
    found = everything(network, normal("input_small", (1, 4, *PATCH)), mask)
    compare_arrays(found, mask, MANIFEST["network_A_small"], SMALL)


@pytest.mark.slow
def test_every_released_array_at_the_released_size():
    network, x = golden_network((128, 128, 128), SHAPES), normal("input", (1, 4, 128, 128, 128))
    golden = dict(np.load(DATA / "network_A.npz"))
    for mask in MASKS:
        compare_arrays(everything(network, x, mask), mask, MANIFEST["network_A"], golden)


def released_losses(network: M2FTrans, x: Tensor, target: Tensor, present: Tensor) -> dict[str, Tensor]:
    taps = network(x, return_taps=True, present=present)
    outputs = {"fuse": [taps.logits], "sep": taps.inner["separate"], "prm": taps.inner["scales"]}
    terms = {}
    for name, logits in outputs.items():
        given = [{"probabilities": of_one.softmax(1), "target": target} for of_one in logits]
        terms[f"{name}_ce"] = sum(weighted_cross_entropy(**pair) for pair in given)
        terms[f"{name}_dice"] = sum(soft_dice(**pair) for pair in given)
    return terms | {"total": sum(terms.values())}


def golden_target(name: str, shape) -> Tensor:
    u = torch.rand(shape, generator=generator(f"A/m2ftrans/{name}"))
    classes = (u > 0.70).long() + (u > 0.80).long() + (u > 0.93).long()
    return F.one_hot(classes, 4).movedim(-1, 1)


@pytest.mark.slow
def test_released_training_loss_and_gradients(network, small_shapes):
    x, target = normal("input_batch", (2, 4, *PATCH)), golden_target("target_batch", (2, *PATCH))
    terms = released_losses(network, x, target, bools("1011", "0100"))
    for name, value in terms.items():
        assert value.item() == pytest.approx(SMALL[f"loss.{name}"].item(), rel=1e-5), name
    try:
        terms["total"].backward()
        check_gradients(network, small_shapes)
    finally:
        network.zero_grad()


def check_gradients(network: M2FTrans, shapes: dict[str, list[int]]) -> None:
    keys = _released_names(network)
    gradients = {keys[key]: parameter.grad for key, parameter in network.named_parameters()}
    assert list(gradients.keys() ^ shapes.keys()) == []
    norms, dots = SMALL["grad_norm"], SMALL["grad_dot"]
    noise = 1e-5 * norms.max()
    for (key, shape), norm, dot in zip(shapes.items(), norms, dots, strict=True):
        found = float(gradients[key].norm())
        if norm <= noise:
            assert found <= noise, key
            continue
        assert found == pytest.approx(norm, rel=0.02), key
        found_dot = float((gradients[key] * normal(f"direction/{key}", shape)).sum())
        assert found_dot == pytest.approx(dot, abs=0.03 * norm), key


@pytest.fixture(scope="module")
def without_storage() -> M2FTrans:
    with torch.device("meta"):
        return released()


def test_parameters(without_storage):
    assert sum(p.numel() for p in without_storage.parameters()) == 13_489_820
    shapes = {key: list(tensor.shape) for key, tensor in without_storage.state_dict().items()}
    assert {key: shapes[own] for own, key in _released_names(without_storage).items()} == SHAPES
    assert sum(p.numel() for p in without_storage.separate_decoder.parameters()) == 593_356
    assert not without_storage.training


def test_checkpoints_that_do_not_fit(without_storage):
    network, wider = without_storage, small(5)
    weights = {key: torch.empty(shape, device="meta") for key, shape in SHAPES.items()}
    with pytest.raises(MSTKDError, match="misses"):
        wider.load_released_state_dict(weights)
    with pytest.raises(MSTKDError, match=r"misses pos; give"):
        network.load_released_state_dict({key: w for key, w in weights.items() if key != "pos"})
    with pytest.raises(MSTKDError, match="has unknown module"):
        network.load_released_state_dict(weights | {"module.module": weights["decoder_sep.seg_layer.bias"]})
    with pytest.raises(MSTKDError, match=r"has another shape for fusion"):
        network.load_released_state_dict(weights | {"fusion": torch.empty(1, 125, 128)})


def small(modalities=4, classes=3, patch=(16, 16, 16), strides=None, **settings) -> M2FTrans:
    dims = len(patch)
    strides = strides or [[1] * dims] + [[2] * dims] * 5
    settings = {"base_features": 4, "mlp_features": 32, "levels": 4} | settings
    return M2FTrans(modalities, classes, patch_size=patch, strides=strides, **settings).eval()


@torch.no_grad()
def test_fusion_tokens_look_at_what_is_there():
    """Weights of all heads and tokens add up to all that is looked at; absent modalities get none of it."""
    torch.manual_seed(1)
    network, watching = small(), Watch()
    watching.outputs("transformer", network.transformer)
    watching.outputs("attention", network.transformer.layers[0].attention, lambda found: found[1])
    network(torch.randn(2, 4, 16, 16, 16), present=bools("1111", "0101"))
    seen = watching.done()
    weights, attention = seen["transformer"][0][2], seen["attention"][0]
    assert weights.shape == (2, 4, 2, 2, 2)
    assert not weights[1, [0, 2]].any()
    total = weights.sum((1, 2, 3, 4)) + attention[..., -8:].sum((1, 2, 3))
    torch.testing.assert_close(total, torch.full((2,), 8.0 * 8))


def test_a_query_that_sees_nothing_has_finite_gradients():
    q, k, v = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(3))
    attended, _ = attend(q, k, v, 1.0, torch.zeros(1, 1, 2, dtype=torch.bool))
    torch.testing.assert_close(attended, v.mean(1, keepdim=True).expand(1, 2, 3))
    attended.sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@torch.no_grad()
def test_tables_are_interpolated_for_another_patch():
    torch.manual_seed(2)
    network = small(2, patch=(16, 32))
    transformer = network.transformer
    ramp = torch.linspace(0, 1, 4).expand(3, 2, 4).reshape(1, 24, 1)  # 3 sets of 2 × 4 voxels
    transformer.positions.copy_(ramp.expand_as(transformer.positions))
    assert torch.equal(transformer._on_grid(transformer.positions, (2, 4)).flatten(0, 1)[None, :, :1], ramp)
    finer = transformer._on_grid(transformer.positions, (3, 7))[..., 0].view(3, 3, 7)
    torch.testing.assert_close(finer, torch.linspace(0, 1, 7).expand(3, 3, 7))
    assert network(torch.randn(1, 2, 23, 51)).shape == (1, 3, 23, 51)
