"""Networks that are told which modalities are absent, behind every norm."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from benchmarks.plans import mstkd_architecture, stock_architecture, unet
from nnunetv2_mstkd.architectures import without_gradients
from nnunetv2_mstkd.architectures.conditioning import ConditionedNorm, condition_on_absence
from nnunetv2_mstkd.architectures.taps import with_taps
from nnunetv2_mstkd.errors import MSTKDError

PATCH = (16, 16, 16)
PLANNED = {
    "PlainConvUNet": stock_architecture(PATCH, first_features=4),
    "ResidualEncoderUNet": unet([4, 8, 16], [[1] * 3, [2] * 3, [2] * 3], blocks=[1, 2, 2]),
    "MSTKDNet": mstkd_architecture(PATCH, first_features=4),
    "PlainConvUNet 2D": stock_architecture((16, 16), first_features=4),
}


def network(name: str, deep_supervision: bool = False) -> nn.Module:
    torch.manual_seed(0)
    planned = PLANNED[name]
    names = planned["network_class_name"], planned["arch_kwargs"], planned["_kw_requires_import"]
    return get_network_from_plans(*names, 4, 3, deep_supervision=deep_supervision).eval()


def batch(name: str) -> torch.Tensor:
    """A complete sample, one without two modalities, and one of background."""
    torch.manual_seed(1)
    x = torch.randn(3, 4, *(PATCH[:2] if name.endswith("2D") else PATCH))
    x[1, 1:3] = 0
    x[2] = 0
    return x


def randomised(conditioned: nn.Module) -> nn.Module:
    nn.init.normal_(conditioned.conditioning.weight, std=0.3)
    return conditioned


@pytest.fixture(params=PLANNED)
def name(request) -> str:
    return request.param


@torch.no_grad()
def test_starts_as_the_unchanged_network_and_leaves_complete_input_untouched(name):
    plain, x = network(name), batch(name)
    conditioned = condition_on_absence(network(name), 4)
    assert torch.equal(conditioned(x), plain(x))
    changed = randomised(conditioned)(x)
    assert torch.equal(changed[0], plain(x)[0])
    assert torch.equal(changed[2], plain(x)[2]), "background says nothing about what is absent"
    assert not torch.allclose(changed[1], plain(x)[1], atol=1e-2)


def test_weights_keep_their_names(name):
    plain, conditioned = network(name), condition_on_absence(network(name), 4)
    new = {*conditioned.state_dict()} - {*plain.state_dict()}
    assert new == {"conditioning.weight"}
    norms = [m for m in conditioned.modules() if isinstance(m, ConditionedNorm)]
    channels = sum(getattr(m, "num_features", 0) or m.num_channels for m in norms)
    assert conditioned.conditioning.weight.shape == (2, channels, 4)
    missing = conditioned.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["conditioning.weight"]


def test_learns_from_the_first_step(name):
    conditioned, x = condition_on_absence(network(name, True), 4).train(), batch(name)
    outputs = conditioned(x)
    sum(out.square().mean() for out in outputs).backward()
    gradient = conditioned.conditioning.weight.grad
    assert gradient.isfinite().all()
    assert (gradient[..., [0, 3]] == 0).all(), "modalities that no sample lacks"
    # All but what stands in front of a residual block's last norm, whose weight nnU-Net starts at zero.
    learning = (gradient[..., 1:3].abs().sum((0, 2)) > 0).float().mean()
    assert learning > (0.5 if name == "ResidualEncoderUNet" else 0.9)


@torch.no_grad()
def test_a_batch_is_its_samples(name):
    conditioned, x = randomised(condition_on_absence(network(name), 4)), batch(name)
    together, alone = conditioned(x), torch.cat([conditioned(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)


def watched(conditioned: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By name of a norm: weight and bias in the last pass, once one was made."""
    told = {}
    for name, norm in conditioned.named_modules():
        if isinstance(norm, ConditionedNorm):
            norm.register_forward_hook(lambda n, *_, name=name: told.update({name: n.weight_and_bias()}))
    return told


def test_nothing_of_a_step_stays_in_it(name):
    """Tensors of a graph could not be copied."""
    conditioned = randomised(condition_on_absence(network(name), 4))
    logits = conditioned(batch(name))
    (logits if isinstance(logits, torch.Tensor) else logits[0]).sum().backward()
    deepcopy(conditioned)


@torch.no_grad()
def test_equals_the_same_network_with_other_numbers_in_its_norms(name):
    """For one subset, scale and shift fold into weight and bias."""
    conditioned, x = randomised(condition_on_absence(network(name), 4)), batch(name)[1:2]
    folded = network(name)
    told = watched(conditioned)
    found = conditioned(x)
    plain_norms = dict(folded.named_modules())
    for norm_name, (weight, bias) in told.items():
        plain_norms[norm_name].weight.copy_(weight[0])
        plain_norms[norm_name].bias.copy_(bias[0])
    torch.testing.assert_close(folded(x), found, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_short_way_without_gradients_knows_it_too(monkeypatch):
    conditioned = randomised(condition_on_absence(network("MSTKDNet"), 4))
    x = torch.randn(1, 4, 64, 64, 64)
    x[:, 2] = 0
    monkeypatch.setattr(without_gradients, "_SMALLEST_MAP", 2**18)
    shortly, calls = conditioned(x), []
    monkeypatch.setattr(without_gradients, "no_gradients", lambda: bool(calls.append(1)))
    plainly = conditioned(x)
    assert calls
    assert not torch.equal(shortly, plainly)
    torch.testing.assert_close(shortly, plainly, rtol=0, atol=1e-4 * float(plainly.std()))


@torch.no_grad()
def test_copies_and_taps(name):
    conditioned, x = randomised(condition_on_absence(network(name), 4)), batch(name)
    copied = deepcopy(conditioned)
    nn.init.zeros_(conditioned.conditioning.weight)
    assert torch.equal(conditioned(x), network(name)(x))
    assert not torch.allclose(copied(x), conditioned(x), atol=1e-2)
    taps = with_taps(copied)(x, return_taps=True)
    torch.testing.assert_close(taps.logits, copied(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_channels_of_a_previous_stage_are_no_modalities():
    planned = PLANNED["PlainConvUNet"]
    names = planned["network_class_name"], planned["arch_kwargs"], planned["_kw_requires_import"]
    conditioned = condition_on_absence(get_network_from_plans(*names, 7, 3, deep_supervision=False), 4).eval()
    x = torch.cat((batch("PlainConvUNet"), torch.zeros(3, 3, *PATCH)), dim=1)
    plain = conditioned(x)[0]
    assert torch.equal(randomised(conditioned)(x)[0], plain)


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm3d(8), nn.InstanceNorm3d(8, affine=True), nn.GroupNorm(2, 8), nn.BatchNorm3d(8).eval()],
    ids=str,
)
def test_every_kind_of_norm(norm):
    torch.manual_seed(2)
    norm = deepcopy(norm)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 4, 5, 6)
    unscaled = deepcopy(norm)
    if norm.affine:
        nn.init.ones_(unscaled.weight)
        nn.init.zeros_(unscaled.bias)
    network = condition_on_absence(nn.ModuleDict({"norm": norm}), 8)
    network.forward = norm.__call__
    x[1, 2:4] = 0
    told = watched(network)
    found = randomised(network)(x)
    weight, bias = told["norm"]
    voxel = (2, 8, 1, 1, 1)
    torch.testing.assert_close(
        found, unscaled(x) * weight.view(voxel) + bias.view(voxel), rtol=1e-4, atol=1e-5
    )


def test_a_network_without_norms_is_refused():
    with pytest.raises(MSTKDError, match="Sequential has no instance, group or batch norm"):
        condition_on_absence(nn.Sequential(nn.Conv3d(4, 3, 1)), 4)


def test_compiles_without_graph_breaks():
    conditioned, x = randomised(condition_on_absence(network("PlainConvUNet"), 4)), batch("PlainConvUNet")
    expected = conditioned(x)
    torch._dynamo.reset()
    compiled = torch.compile(conditioned, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    other = x.clone()
    other[0, 0] = 0
    torch.testing.assert_close(compiled(other), conditioned(other))
