"""RFNet against numbers of the authors' released code, and its habits in this project.

tests/data/rfnet: sub-sampled outputs of github.com/dyh127/RFNet, commit 1e475fa, on CPU in float32, for
weights and inputs made by the rule of ``golden_weight``; ``manifest.json`` has the sub-sampling, mean and
standard deviation of the whole tensors, ``state_dict.json`` the released keys and shapes.
"""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy
from nnunetv2_mstkd.methods.rfnet import RFNet, released
from nnunetv2_mstkd.methods.rfnet.network import RegionAwareFusion, UnitKind, _released_names

DATA = Path(__file__).resolve().parents[2] / "data" / "rfnet"
SHAPES = json.loads((DATA / "state_dict.json").read_text())
MANIFEST = json.loads((DATA / "manifest.json").read_text())["network_A"]
GOLDEN = dict(np.load(DATA / "network_A.npz"))
MODALITIES = ("flair", "t1ce", "t1", "t2")
MASKS = ("1111", "0100", "1001", "1101")
PATCH = (48, 40, 32)
TOLERANCE = 5e-4  # of an array's standard deviation


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name: str, shape) -> torch.Tensor:
    return torch.randn(shape, generator=generator(f"A/rfnet/{name}"))


def golden_weight(key: str, shape) -> torch.Tensor:
    z = normal(key, shape)
    if z.ndim >= 2:
        return z * (shape[0] / z.numel()) ** 0.5
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def bools(*masks: str) -> torch.Tensor:
    return torch.tensor([[digit == "1" for digit in mask] for mask in masks])


@pytest.fixture(scope="module")
def network() -> RFNet:
    network = released()
    network.load_released_state_dict({f"module.{k}": golden_weight(k, s) for k, s in SHAPES.items()})
    return network


def inner_modules(network: RFNet) -> dict[str, nn.Module]:
    """Name in the golden file → module whose (first) output that is; MASK stands for the mask."""
    modules: dict[str, nn.Module] = {}
    for modality, encoder in zip(MODALITIES, network.encoders, strict=True):
        modules |= {f"any.enc_{modality}_x{i}": level for i, level in enumerate(encoder.levels, start=1)}
    decoder = network.decoder
    for i, (head, fusion) in enumerate(zip(decoder.region_heads, decoder.fusions, strict=True), start=1):
        modules |= {f"MASK.prm{i}_embedding": head.embedding, f"MASK.prm{i}_logits": head}
        modules |= {
            f"MASK.RFM{i}_shortcut": fusion.shortcut,
            f"MASK.RFM{i}_region_fusion": fusion.region_fusion,
        }
        modules |= {f"MASK.RFM{i}_weights/{r}": net for r, net in enumerate(fusion.modality_weights)}
    modules |= {f"MASK.d{i}_c1": up for i, up in enumerate(decoder.ups, start=1)}
    modules |= {f"MASK.d{i}_out": join for i, join in enumerate(decoder.joins, start=1)}
    # Its first run is FLAIR's.
    separate = network.separate_decoder.joins
    return modules | {f"any.sep_flair_d{i}_out": join for i, join in enumerate(separate, start=1)}


@torch.no_grad()
def everything(network: RFNet, x: torch.Tensor, mask: str) -> dict[str, torch.Tensor]:
    """What the golden file has for one mask, under its names."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, inputs, output, name=name: (seen.setdefault(name, output), None)[1]
        )
        for name, module in inner_modules(network).items()
    ]
    for i, fusion in enumerate(network.decoder.fusions, start=1):
        keep = partial(seen.setdefault, f"MASK.RFM{i}_regions")
        hooks.append(
            fusion.region_fusion.register_forward_pre_hook(
                lambda _, inputs, keep=keep: (keep(*inputs), None)[1]
            )
        )
    taps = network(x, return_taps=True, present=bools(mask))
    for hook in hooks:
        hook.remove()
    for modality, logits in zip(MODALITIES, taps.inner["separate"], strict=True):
        seen |= {f"any.sep_{modality}_logits": logits, f"any.sep_{modality}_pred": logits.softmax(1)}
    for i, logits in enumerate(taps.inner["region_maps"], start=1):
        seen[f"MASK.prm{i}_pred_up"] = logits.softmax(1)
        weights = [seen.pop(f"MASK.RFM{i}_weights/{r}").flatten(1) for r in range(4)]
        seen[f"MASK.RFM{i}_weights"] = torch.stack(weights, dim=1)
        seen[f"MASK.RFM{i}_regions"] = seen[f"MASK.RFM{i}_regions"].unflatten(1, (4, -1))
    seen |= {"MASK.logits": taps.logits, "MASK.pred": taps.logits.softmax(1)}
    return {name.replace("MASK", f"m{mask}"): value for name, value in seen.items()}


@pytest.mark.parametrize("mask", [*MASKS[:2], *(pytest.param(m, marks=pytest.mark.slow) for m in MASKS[2:])])
def test_every_released_array(network, mask):
    found = everything(network, normal("input", (1, 4, *PATCH)), mask)
    names = [name for name in MANIFEST if name.startswith((f"m{mask}.", "any."))]
    assert set(names) <= found.keys()
    for name in names:
        entry = MANIFEST[name]
        tolerance, value = TOLERANCE * entry["std"], found[name]
        assert list(value.shape) == entry["shape"], name
        sampled = value[tuple(slice(None, None, step) for step in entry["strides"])]
        np.testing.assert_allclose(sampled, GOLDEN[name], rtol=0, atol=tolerance, err_msg=name)
        assert float(value.mean()) == pytest.approx(entry["mean"], abs=tolerance), name
        assert float(value.std(correction=0)) == pytest.approx(entry["std"], abs=tolerance), name


@pytest.mark.slow
def test_released_training_loss_and_gradients(network):
    x, present = normal("input_batch", (2, 4, *PATCH)), bools("1011", "0100")
    u = torch.rand((2, *PATCH), generator=generator("A/rfnet/target_batch"))
    classes = (u > 0.70).long() + (u > 0.80).long() + (u > 0.93).long()
    target = F.one_hot(classes, 4).movedim(-1, 1)
    taps = network(x, return_taps=True, present=present)
    terms = {}
    outputs = {"fuse": [taps.logits], "sep": taps.inner["separate"], "prm": taps.inner["region_maps"]}
    for name, logits in outputs.items():
        given = [{"probabilities": of_one.softmax(1), "target": target} for of_one in logits]
        terms[f"{name}_ce"] = sum(weighted_cross_entropy(**pair) for pair in given)
        terms[f"{name}_dice"] = sum(soft_dice(**pair) for pair in given)
    fused = terms["fuse_ce"] + terms["fuse_dice"]
    terms["total"] = sum(terms.values())
    terms["total_before_fusion_start"] = terms["total"] - fused
    for name, value in terms.items():
        assert value.item() == pytest.approx(GOLDEN[f"loss.{name}"].item(), rel=1e-5), name
    try:
        # Zero times the loss, not left out: parameters that it alone reaches get zeros, not None.
        (terms["total_before_fusion_start"] + 0 * fused).backward(retain_graph=True)
        check_gradients(network, "grad_before_fusion_start")
        fused.backward()
        check_gradients(network, "grad")
    finally:
        network.zero_grad()


def check_gradients(network: RFNet, name: str) -> None:
    keys = _released_names(network)
    gradients = {keys[key]: parameter.grad for key, parameter in network.named_parameters()}
    assert list(gradients.keys() ^ SHAPES.keys()) == []
    norms, dots = GOLDEN[f"{name}_norm"], GOLDEN[f"{name}_dot"]
    noise = 1e-5 * norms.max()
    for (key, shape), norm, dot in zip(SHAPES.items(), norms, dots, strict=True):
        found = float(gradients[key].norm())
        if norm <= noise:
            assert found <= noise, key
            assert (found == 0) == (norm == 0), key
            continue
        assert found == pytest.approx(norm, rel=0.02), key
        found_dot = float((gradients[key] * normal(f"direction/{key}", shape)).sum())
        # Those of the weighing networks are small and noisy: the released code's own differ from a
        # computation in float64 by up to 4.4 % of the norm, ours by up to 1.9 %.
        tolerance = 0.06 if "modal_fusion" in key else 0.03
        assert found_dot == pytest.approx(dot, abs=tolerance * norm), key


def test_parameters(network):
    assert sum(p.numel() for p in network.parameters()) == 8_984_960
    assert len(network.state_dict()) == 288
    assert sum(p.numel() for p in network.separate_decoder.parameters()) == 586_388
    assert not network.training


def test_checkpoints_that_do_not_fit():
    with torch.device("meta"):
        network, wider = released(), released(input_channels=5)
    weights = {key: torch.empty(shape, device="meta") for key, shape in SHAPES.items()}
    with pytest.raises(MSTKDError, match="misses"):
        wider.load_released_state_dict(weights)
    shortened = dict(list(weights.items())[1:])
    with pytest.raises(MSTKDError, match=r"misses flair_encoder\.e1_c1\.conv\.weight"):
        network.load_released_state_dict(shortened)
    with pytest.raises(MSTKDError, match="has unknown module"):
        network.load_released_state_dict(weights | {"module.module": weights["decoder_sep.seg_layer.bias"]})
    with pytest.raises(MSTKDError, match=r"has another shape for decoder_sep\.seg_layer\.bias"):
        network.load_released_state_dict(weights | {"decoder_sep.seg_layer.bias": torch.empty(3)})


def test_weights_that_regions_have_need_no_products():
    """The released form: every map times every region first, then means and weighted sums."""
    fusion = RegionAwareFusion(UnitKind(2), modalities=3, channels=4, num_classes=2)
    stack, maps = torch.randn(2, 3, 4, 6, 5), torch.rand(2, 2, 6, 5)
    found = []
    fusion.region_fusion.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    fusion(stack, maps)
    regions = []
    for r, weigh in enumerate(fusion.modality_weights):
        products = stack * maps[:, r, None, None]
        size = maps[:, r].mean((1, 2)) + 1e-7
        means = products.mean((3, 4)).flatten(1) / size[:, None]
        weights = weigh(torch.cat((means, size[:, None]), dim=1)[..., None, None])
        regions.append((products * weights[..., None]).sum(1))
    torch.testing.assert_close(found[0], torch.cat(regions, dim=1))
