"""What all networks do that have an encoder per modality and fuse what the present ones found.

Each against the authors' numbers, and what it alone does: ``tests/methods/NAME/test_NAME_network.py``.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nnunetv2_mstkd.architectures.fusion import upsampled_logits
from nnunetv2_mstkd.architectures.fusion_network import FusionNetwork
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.imfuse import IMFuse
from nnunetv2_mstkd.methods.m2ftrans import M2FTrans
from nnunetv2_mstkd.methods.mmformer import MMFormer
from nnunetv2_mstkd.methods.rfnet import RFNet

SIZES = {
    RFNet: {"base_features": 4},
    MMFormer: {"base_features": 4, "token_features": 16},
    M2FTrans: {"base_features": 4, "mlp_features": 32},
    IMFuse: {"base_features": 2},
}
of_each = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)


def small(kind, modalities=4, classes=3, patch=(16, 16, 16), strides=None, **settings) -> FusionNetwork:
    """Of four levels, unless the strides are fewer, in evaluation mode."""
    strides = strides or [[1] * len(patch)] + [[2] * len(patch)] * 5
    settings = {"levels": 4, **SIZES[kind], **settings}
    network = kind(modalities, classes, patch_size=patch, strides=strides, **settings).eval()
    if kind is MMFormer:
        for within in network.token_fusion.within:  # zero to begin with
            nn.init.normal_(within.positions)
    return network


def bools(*masks: str) -> torch.Tensor:
    return torch.tensor([[digit == "1" for digit in mask] for mask in masks])


def outputs_of(taps) -> list[torch.Tensor]:
    return list(taps.tensors())


@of_each
@torch.no_grad()
def test_zeros_say_what_is_absent(kind):
    torch.manual_seed(0)
    network, x = small(kind), torch.randn(1, 4, 16, 16, 16)
    present = bools("1011")
    masked = x * present[..., None, None, None]
    other = x.clone()
    other[:, 1] = 7
    hidden = network(x, present=present)
    assert torch.equal(network(masked), hidden)
    assert torch.equal(network(other, present=present), hidden)
    assert not torch.allclose(network(x), hidden, atol=1e-3)


@of_each
@pytest.mark.parametrize("regions", [False, True])
@torch.no_grad()
def test_a_batch_is_its_samples(kind, regions):
    seed, limit = (3, 2e-4) if kind is M2FTrans else (1, 1e-4)
    torch.manual_seed(seed)
    network, x = small(kind, regions=regions), torch.randn(3, 4, 16, 16, 16)
    x[0, 1], x[1, :3], x[2] = 0, 0, 0
    batch = outputs_of(network(x, return_taps=True))
    for i in range(3):
        single = outputs_of(network(x[i : i + 1], return_taps=True))
        for of_batch, of_single in zip(batch, single, strict=True):
            torch.testing.assert_close(of_batch[i : i + 1], of_single, rtol=0, atol=limit)


@of_each
@pytest.mark.parametrize(
    ("modalities", "patch", "strides", "levels"),
    [
        (1, (16, 48), None, 4),
        (7, (20, 17), [[1, 1]] + [[2, 2]] * 5, 5),
        (2, (13, 18, 1), None, 4),
        (4, (6, 16, 16), [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]], 4),
        (3, (8, 9, 10), [[1, 1, 1], [2, 2, 2]], 2),
    ],
)
@pytest.mark.parametrize("regions", [False, True])
def test_any_plan(kind, modalities, patch, strides, levels, regions):
    torch.manual_seed(2)
    network = small(kind, modalities, 2, patch, strides, regions=regions, levels=levels)
    x = torch.randn(2, modalities, *patch)
    taps = network(x, return_taps=True)
    coarser_only = kind in (MMFormer, IMFuse)
    assert len(taps.inner["separate"]) == modalities
    assert len(taps.inner[network.further_tap]) == levels - coarser_only
    outputs = outputs_of(taps)
    assert all(out.shape == (2, 2, *patch) and out.isfinite().all() for out in outputs)
    torch.testing.assert_close(network(x), taps.logits)
    sum(out.square().mean() for out in outputs).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@of_each
def test_samples_that_show_nothing_teach_nothing(kind):
    """Of an image without contrast, instance norms make noise and infinite gradients."""
    torch.manual_seed(4)
    network, x = small(kind).train(), torch.randn(3, 4, 16, 16, 16)
    x[0, 1], x[1] = 0, 0
    # The mask may hide all that a sample shows.
    taps = network(x, return_taps=True, present=bools("1111", "1111", "0000"))
    target = torch.randint(0, 3, (3, 16, 16, 16))
    sum(F.cross_entropy(out, target) for out in outputs_of(taps)).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert max(float(p.grad.norm()) for p in network.parameters()) < 100
    bias = network.decoder.head.bias.detach().view(1, 3, 1, 1, 1)
    assert torch.equal(taps.logits[1:], bias.expand(2, 3, 16, 16, 16))
    network.zero_grad()
    nothing = network(torch.zeros(1, 4, 16, 16, 16), return_taps=True)
    sum(out.square().sum() for out in outputs_of(nothing)).backward()
    assert all(not p.grad.any() for p in network.parameters() if p.grad is not None)


@of_each
@torch.no_grad()
def test_prediction_runs_nothing_that_training_alone_needs(kind):
    torch.manual_seed(5)
    network, runs = small(kind), []
    network.separate_decoder.register_forward_hook(lambda *_: runs.append("separate"))
    heads = getattr(network.decoder, "scale_heads", [])
    for head in heads:
        head.register_forward_hook(lambda *_: runs.append("scale"))
    x = torch.randn(1, 4, 16, 16, 16)
    logits = network(x)
    assert not runs
    taps = network(x, return_taps=(network.further_tap,))
    assert list(taps.inner) == [network.further_tap]
    assert runs == ["scale"] * len(heads)
    runs.clear()
    taps = network(x, return_taps=("separate",))
    assert list(taps.inner) == ["separate"]
    assert runs == ["separate"] * 4
    assert torch.equal(taps.logits, logits)


@of_each
@torch.no_grad()
def test_half_precision(kind):
    torch.manual_seed(6)
    network, x = small(kind, regions=True), torch.randn(2, 4, 16, 16, 16)
    full = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taps = network(x, return_taps=True)
    assert all(out.dtype == torch.float32 for out in taps.inner[network.further_tap])
    assert (taps.logits - full).std() < 0.2 * full.std()


@of_each
def test_shapes_without_storage(kind):
    with torch.device("meta"):
        taps = small(kind)(torch.empty(1, 4, 17, 16, 16), return_taps=True)
    assert taps.logits.shape == (1, 3, 17, 16, 16)


@of_each
@pytest.mark.parametrize(
    "settings",
    [
        {"strides": [[1, 1, 1]]},
        {"patch": (16, 16), "strides": [[1, 1, 1], [2, 2, 2]]},
        {"base_features": 0},
    ],
    ids=str,
)
def test_plans_that_no_network_fits(kind, settings):
    with pytest.raises(MSTKDError, match=rf"{kind.__name__} cannot be built .* give 2 stages or more"):
        small(kind, **settings)


@pytest.mark.parametrize("regions", [False, True])
def test_probabilities_are_what_is_upsampled(regions):
    logits = 20 * torch.randn(1, 3, 4, 4, 2)
    finer = upsampled_logits(logits.requires_grad_(), (8, 8, 4), regions)
    before, after = (x.sigmoid() if regions else x.softmax(1) for x in (logits, finer))
    expected = F.interpolate(before, size=(8, 8, 4), mode="trilinear", align_corners=True)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)
    after.square().sum().backward()
    assert logits.grad.isfinite().all()
