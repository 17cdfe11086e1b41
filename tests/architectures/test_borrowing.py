"""Networks that borrow features of absent modalities at their first convolution."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from test_conditioning import PATCH, PLANNED, batch, network
from torch import nn

from nnunetv2_mstkd.architectures.borrowing import FEATURES, borrow_features
from nnunetv2_mstkd.architectures.conditioning import condition_on_absence
from nnunetv2_mstkd.architectures.lenders import lenders_by_name
from nnunetv2_mstkd.architectures.shapes import input_convolutions
from nnunetv2_mstkd.architectures.taps import with_taps
from nnunetv2_mstkd.engines.openvino_network import OpenVINONetwork
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import all_subsets

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def borrowing(name: str, modalities=MODALITIES, changed: bool = False) -> nn.Module:
    made = network(name)
    shape = (2, 4, *(PATCH[:2] if name.endswith("2D") else PATCH))
    borrow_features(made, lenders_by_name(modalities), shape)
    if changed:
        nn.init.normal_(made.borrowing.mixing)
        nn.init.normal_(made.borrowing.bias)
    return made


# A network of every kind, the flat one quickly.
@pytest.fixture(params=[pytest.param(n, marks=() if n.endswith("2D") else pytest.mark.slow) for n in PLANNED])
def name(request) -> str:
    return request.param


def subsets_of(x: torch.Tensor) -> torch.Tensor:
    """The complete first sample under every subset."""
    masks = torch.tensor([[m in subset for m in MODALITIES] for subset in all_subsets(MODALITIES)])
    return x[:1] * masks.view(*masks.shape, *[1] * (x.ndim - 2))


@torch.no_grad()
def test_starts_as_the_unchanged_network(name):
    # Every subset where that is cheap.
    x = subsets_of(batch(name)) if name.endswith("2D") else batch(name)
    assert torch.equal(borrowing(name)(x), network(name)(x))


def test_complete_input_is_never_changed(name):
    plain, x = network(name), batch(name)
    changed = borrowing(name, changed=True)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found, expected = changed(x), plain(x)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[2], expected[2]), "background says nothing about what is absent"
        assert not torch.allclose(found[1], expected[1], atol=1e-2)


def test_it_is_the_formula():
    """Of a sample without t1c and t2w, by loops over what is written in the module."""
    changed, x = borrowing("PlainConvUNet", changed=True), batch("PlainConvUNet")[1:2]
    parts = changed.borrowing
    absent, present = (1, 2), (0, 3)
    expected = 0
    for m in absent:
        shares = parts.preference[m, present].softmax(0)
        for share, k in zip(shares, present, strict=True):
            pair = parts.pairs.index((m, k))
            h = F.conv3d(x[:, k : k + 1], parts.weight[pair], padding=1)
            h = F.leaky_relu(F.instance_norm(h, None, None, parts.gain[pair], parts.bias[pair]), 0.01)
            expected = expected + share * F.conv3d(h, parts.mixing[:, m * FEATURES : (m + 1) * FEATURES])
    torch.testing.assert_close(parts.borrowed(x), expected, rtol=1e-4, atol=1e-4)
    plain, first = network("PlainConvUNet"), input_convolutions(network("PlainConvUNet"), (1, 4, *PATCH))
    maps = [dict(n.named_modules())[first[0]](x) for n in (plain, changed)]
    assert torch.equal(*maps), "outside a pass of the network the convolution is itself"


@pytest.mark.parametrize("present", ["1111", "1010", "0001"])
def test_nothing_comes_from_an_absent_modality(present):
    """Nor goes to a present one: whatever their lenders do, what is borrowed stays."""
    x = batch("PlainConvUNet")[:1]
    x = x * torch.tensor([digit == "1" for digit in present]).view(1, 4, 1, 1, 1)
    changed = borrowing("PlainConvUNet", changed=True)
    expected = changed(x)
    idle = [
        pair for pair, (m, k) in enumerate(changed.borrowing.pairs) if present[m] == "1" or present[k] == "0"
    ]
    with torch.no_grad():
        for parameter in (changed.borrowing.weight, changed.borrowing.gain, changed.borrowing.bias):
            parameter[idle] = 7.0
    assert torch.equal(changed(x), expected)


@torch.no_grad()
def test_who_lends_goes_by_name():
    there = torch.tensor([[False, True, True, True]])
    softmax = torch.tensor([4.0, 2.0, 0.0]).softmax(0)
    shares = borrowing("PlainConvUNet").borrowing.shares(there)[0]
    torch.testing.assert_close(shares[0, 1:], softmax)  # t1n: t1c, t2w, t2f
    other = ("t1n", "t2f", "t1c", "t2w")
    shares = borrowing("PlainConvUNet", other).borrowing.shares(there)[0]
    torch.testing.assert_close(shares[0, [2, 3, 1]], softmax)
    unknown = borrowing("PlainConvUNet", ("a", "b", "c", "d")).borrowing.shares(there)[0]
    torch.testing.assert_close(unknown[0, 1:], torch.full((3,), 1 / 3))
    assert not unknown[1:].any()


def test_learns_from_the_first_step(name):
    """First how what is borrowed comes in; what is lent, and by whom, once that is not zero."""
    made, x = borrowing(name).train(), batch(name)

    def gradients() -> list[bool]:
        made.zero_grad()
        made(x).square().mean().backward()
        parts = made.borrowing
        found = [p.grad for p in (parts.mixing, parts.weight, parts.gain, parts.bias, parts.preference)]
        assert all(gradient.isfinite().all() for gradient in found)
        by_modality = parts.mixing.grad.unflatten(1, (4, FEATURES)).flatten(2).any(2).any(0)
        assert by_modality.tolist() == [False, True, True, False]
        return [bool(gradient.any()) for gradient in found]

    assert gradients() == [True, False, False, False, False]
    nn.init.normal_(made.borrowing.mixing)
    assert gradients() == [True] * 5


def test_a_batch_is_its_samples_with_and_without_gradients(name):
    changed, x = borrowing(name, changed=True), batch(name)
    with torch.no_grad():
        together, alone = changed(x), torch.cat([changed(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(changed(x).detach(), together, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_beside_conditioning_whichever_comes_first(name):
    plain, x = network(name), batch(name)[:2]
    both = condition_on_absence(borrowing(name), 4)
    shape = (2, 4, *x.shape[2:])
    other = borrow_features(condition_on_absence(network(name), 4), lenders_by_name(MODALITIES), shape)
    new = {*both.state_dict()} - {*plain.state_dict()}
    assert new == {*other.state_dict()} - {*plain.state_dict()}
    assert all(key.startswith(("borrowing.", "conditioning.")) for key in new)
    assert torch.equal(both(x), plain(x))
    nn.init.normal_(both.borrowing.mixing)
    nn.init.normal_(both.conditioning.weight, std=0.3)
    found = both(x)
    assert torch.equal(found[0], plain(x)[0]), "complete"
    other.load_state_dict(both.state_dict())
    assert torch.equal(other(x), found)


@torch.no_grad()
def test_copies_and_taps(name):
    made, x = borrowing(name, changed=True), batch(name)
    copied = deepcopy(made)
    nn.init.zeros_(made.borrowing.mixing)
    assert torch.equal(made(x), network(name)(x))
    assert not torch.allclose(copied(x), made(x), atol=1e-2)
    taps = with_taps(copied)(x, return_taps=True)
    torch.testing.assert_close(taps.logits, copied(x), rtol=1e-4, atol=1e-4)


def test_expressions_are_of_every_pair():
    made, x = borrowing("PlainConvUNet"), batch("PlainConvUNet")[:2]
    found = list(made.borrowing.expressions(x))
    assert len(found) == 12
    own, lent = found[made.borrowing.pairs.index((0, 3))]
    assert own.shape == lent.shape == (2, FEATURES, *PATCH)
    assert not own.requires_grad
    everything = made.borrowing._lent(x, range(12))
    torch.testing.assert_close(lent, everything[:, made.borrowing.pairs.index((0, 3))])
    before = own.clone()
    changed = x.clone()
    changed[:, 3] = 1
    again = list(made.borrowing.expressions(changed))[made.borrowing.pairs.index((0, 3))]
    assert torch.equal(again[0], before), "what it shows of itself depends on itself alone"
    assert not torch.allclose(again[1], lent)


def test_channels_of_a_previous_stage_are_no_modalities():
    cascaded = nn.ModuleDict({"first": nn.Conv3d(6, 5, 3, padding=1)})
    cascaded.forward = lambda x: cascaded["first"](x)
    borrow_features(cascaded, lenders_by_name(MODALITIES), (1, 6, 8, 8, 8))
    nn.init.normal_(cascaded.borrowing.mixing)
    x = torch.randn(1, 6, 8, 8, 8)
    x[:, 4:] = 0
    first = cascaded["first"]
    assert torch.equal(cascaded(x), F.conv3d(x, first.weight, first.bias, padding=1))


@pytest.mark.parametrize(
    ("other", "modalities", "message"),
    [
        (nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 3, 1)), MODALITIES, "no first convolution that sees all"),
        (nn.Sequential(nn.Conv3d(1, 3, 1)), ("CT",), "nobody to borrow from: the only modality is CT"),
    ],
)
def test_what_cannot_borrow(other, modalities, message):
    with pytest.raises(MSTKDError, match=message):
        borrow_features(other, lenders_by_name(modalities), (1, len(modalities), 4, 4, 4))


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    made, x = borrowing("PlainConvUNet", changed=True), batch("PlainConvUNet")
    expected = made(x)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    other = x.clone()
    other[0, 0] = 0
    torch.testing.assert_close(compiled(other), made(other))


@pytest.mark.slow
def test_in_openvino_together_with_conditioning(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_mstkd_cache", str(tmp_path))
    made = condition_on_absence(borrowing("PlainConvUNet 2D", changed=True), 4).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = subsets_of(batch("PlainConvUNet 2D"))
    engine = OpenVINONetwork(made, "", "a model")
    with torch.inference_mode():
        expected, found = made(x), engine(x)
    assert engine.converts
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
