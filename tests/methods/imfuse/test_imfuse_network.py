"""IM-Fuse against numbers of the authors' released code, and its habits in this project."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from imfuse_golden import assert_golden, generator, golden_weight, normal, read_arrays, read_json
from torch import nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.segmentation import soft_dice, weighted_cross_entropy
from nnunetv2_mstkd.methods.imfuse import IMFuse, released
from nnunetv2_mstkd.methods.imfuse.network import _released_names

MODALITIES = ("flair", "t1ce", "t1", "t2")
MASKS = ("1111", "0010", "1001", "0111")
TRAINED_MASK = "1001"
# Name of the golden files → patch, prefix of the rule for weights and input.
SIZES = {"network_small": ((32, 32, 32), "A/imfuse_small"), "network": ((128, 128, 128), "A/imfuse")}
VARIANTS = {
    "first_skip": {"first_skip": True},
    "concat": {"interleaved": False},
    "no_mamba_skip": {"mamba_skip": False},
    "no_mamba_skip_concat": {"mamba_skip": False, "interleaved": False},
    "first_skip_no_mamba_skip": {"first_skip": True, "mamba_skip": False},
}


def bools(*masks: str) -> torch.Tensor:
    return torch.tensor([[digit == "1" for digit in mask] for mask in masks])


def golden_network(prefix: str, shapes: dict, patch, **variant) -> IMFuse:
    network = released(patch, **variant)
    weights = {f"module.{key}": golden_weight(prefix, key, shape) for key, shape in shapes.items()}
    network.load_released_state_dict(weights)
    return network


@pytest.fixture(scope="module")
def small_network() -> IMFuse:
    patch, prefix = SIZES["network_small"]
    return golden_network(prefix, read_json("state_dict_small"), patch)


def inner_modules(network: IMFuse, mask: str) -> dict[str, nn.Module]:
    """Name in the golden file → module whose (first) output that is."""
    modules: dict[str, nn.Module] = {}
    for modality, encoder in zip(MODALITIES, network.encoders, strict=True):
        modules |= {f"enc_{modality}_x{i}": level for i, level in enumerate(encoder.levels, start=1)}
    modules |= {f"intra_{m}": of_one for m, of_one in zip(MODALITIES, network.transformers, strict=True)}
    fused = {f"fused_x{int(level) + 1}": fusion for level, fusion in network.fusions.items()}
    fused |= {"inter": network.fused_transformer, "inter_conv": network.fused_conv}
    fused |= {f"rfm{int(level) + 1}": mix for level, mix in network.decoder.mixes.items()}
    fused |= {f"dec_d{i}": join for i, join in enumerate(network.decoder.joins, start=1)}
    return {"token_in_flair": network.token_convs[0], **modules} | {
        f"m{mask}_{k}": m for k, m in fused.items()
    }


@torch.no_grad()
def everything(network: IMFuse, x: torch.Tensor, mask: str, taps: bool) -> dict[str, torch.Tensor]:
    """What the golden files have for one mask, under their names."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, x, output, name=name: (seen.setdefault(name, output), None)[1])
        for name, module in inner_modules(network, mask).items()
    ]
    outputs = network(x, return_taps=True if taps else (), present=bools(mask))
    for hook in hooks:
        hook.remove()
    for name, output in seen.items():
        if "intra" in name or "fused" in name or name.endswith("inter"):
            seen[name] = output.flatten(2).transpose(1, 2)  # as tokens
    seen |= {f"m{mask}_logits": outputs.logits, f"m{mask}_pred": outputs.logits.softmax(1)}
    if taps:
        for modality, logits in zip(MODALITIES, outputs.inner["separate"], strict=True):
            seen[f"train_sep_{modality}"] = logits.softmax(1)
        for i, logits in enumerate(outputs.inner["scales"], start=1):
            seen[f"train_prm_up{2**i}"] = logits.softmax(1)
        seen["train_fuse"] = outputs.logits.softmax(1)
    return seen


def check_every_array(network: IMFuse, file: str, mask: str, tolerance: float) -> None:
    index, golden, (patch, prefix) = read_json(f"{file}_A_index"), read_arrays(f"{file}_A"), SIZES[file]
    trained = mask == TRAINED_MASK
    found = everything(network, normal(f"{prefix}/input", (1, 4, *patch)), mask, taps=trained)
    names = [n for n in index if n.startswith((f"m{mask}_", "enc_", "intra_", "token_"))]
    names += [n for n in index if n.startswith("train_") and trained]
    assert set(names) <= found.keys()
    for name in names:
        assert_golden(found[name], name, golden, index, tolerance)


QUICK = ("0010", TRAINED_MASK)


@pytest.mark.parametrize(
    "mask", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MASKS]
)
def test_every_released_array(small_network, mask):
    check_every_array(small_network, "network_small", mask, tolerance=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["1111", TRAINED_MASK])  # all of them at the small size above
def test_every_released_array_at_the_released_size(mask):
    patch, prefix = SIZES["network"]
    network = golden_network(prefix, read_json("state_dict"), patch)
    check_every_array(network, "network", mask, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_released_variants(name):
    changes, prefix = read_json("state_dict_small_variants")[name], f"A/imfuse_{name}"
    shapes = {**read_json("state_dict_small"), **changes["added_or_changed"]}
    shapes = {key: shape for key, shape in shapes.items() if key not in changes["absent"]}
    network = golden_network(prefix, shapes, (32, 32, 32), **VARIANTS[name])
    index, golden = read_json("network_small_variants_A_index"), read_arrays("network_small_variants_A")
    x = normal(f"{prefix}/input", (1, 4, 32, 32, 32))
    for mask in ("1111", "1001"):
        found = {f"{name}_{key}": value for key, value in everything(network, x, mask, taps=False).items()}
        names = [n for n in index if n.startswith(f"{name}_m{mask}_")]
        assert set(names) <= found.keys()
        for array in names:
            assert_golden(found[array], array, golden, index, tolerance=2e-4)


def released_losses(outputs, target) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice, summed over outputs."""
    probabilities = [logits.softmax(1) for logits in outputs]
    return tuple(
        sum(loss(probabilities=p, target=target) for p in probabilities)
        for loss in (weighted_cross_entropy, soft_dice)
    )


@pytest.mark.slow
def test_released_training_loss_and_gradients(small_network):
    """In eval mode: the golden numbers are without dropout."""
    (patch, prefix), golden = SIZES["network_small"], read_arrays("network_small_A")
    x = normal(f"{prefix}/input", (1, 4, *patch))
    label = torch.randint(0, 4, (1, *patch), generator=generator(f"{prefix}/label"))
    target = F.one_hot(label, 4).movedim(-1, 1).float()
    taps = small_network(x, return_taps=True, present=bools(TRAINED_MASK))
    outputs = {"fuse": [taps.logits], "sep": taps.inner["separate"], "prm": taps.inner["scales"]}
    losses = {kind: released_losses(of_kind, target) for kind, of_kind in outputs.items()}
    for kind, (cross_entropy, dice) in losses.items():
        assert float(cross_entropy.detach()) == pytest.approx(
            golden[f"train_m1001_{kind}_ce"].item(), rel=1e-5
        )
        assert float(dice.detach()) == pytest.approx(golden[f"train_m1001_{kind}_dice"].item(), rel=1e-5)
    total = sum(cross_entropy + dice for cross_entropy, dice in losses.values())
    assert float(total.detach()) == pytest.approx(golden["train_m1001_total"].item(), rel=1e-5)
    small_network.zero_grad()
    total.backward()
    order = {key: i for i, key in enumerate(read_json("state_dict_small"))}
    largest = golden["train_grad_norm"].max()
    compared = 0
    for key, name in _released_names(small_network).items():
        expected, gradient = golden["train_grad_norm"][order[name]], small_network.get_parameter(key).grad
        if expected > 1e-4 * largest:
            assert float(gradient.norm()) == pytest.approx(expected, rel=2e-3), key
            first = golden["train_grad_first4"][order[name]]
            found = gradient.flatten()[:4].numpy()
            assert abs(found - first[: len(found)]).max() < 2e-3 * expected, key
            compared += 1
    assert compared > 200
    small_network.zero_grad()


def test_checkpoints_of_another_network(small_network):
    weights = {key: torch.zeros(shape) for key, shape in read_json("state_dict_small").items()}
    del weights["flair_pos"]
    weights["mask_token"] = torch.zeros(1)
    with pytest.raises(MSTKDError, match=r"misses flair_pos; it has unknown mask_token"):
        small_network.load_released_state_dict(weights)


def test_parameters():
    with torch.device("meta"):
        network = released()
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_children()}
    unused = 2_958_848
    assert sum(count.values()) == 47_343_624 - unused
    training_only = count["separate_decoder"] + sum(
        p.numel() for p in network.decoder.scale_heads.parameters()
    )
    assert sum(count.values()) - training_only == 43_790_444


def small(modalities=4, classes=3, patch=(16, 16, 16), strides=None, **settings) -> IMFuse:
    dims = len(patch)
    strides = strides or [[1] * dims] + [[2] * dims] * 3
    return IMFuse(
        modalities, classes, patch_size=patch, strides=strides, base_features=2, levels=4, **settings
    ).eval()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_patch_of_another_size_than_the_plan(variant):
    torch.manual_seed(3)
    network = small(2, 2, (16, 24), **variant)
    assert network(torch.randn(1, 2, 21, 40)).shape == (1, 2, 21, 40)
