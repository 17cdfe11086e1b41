"""RA-HVED's network: any patch and modalities, and the released code's numbers.

tests/data/rahved: outputs and one training step of github.com/ssjx10/RA-HVED, commit 23a1543, on CPU in
float32, sub-sampled (every ``stride``-th element), for weights and inputs made by the rule of ``normal`` and
``golden_weights``; ``NAME_mean`` and ``NAME_std`` are of the whole tensor.

Tolerance: 1e-4 of the tensor's standard deviation. These numbers differ by up to 7e-5 from what our network
gives in float64: a dozen instance norms amplify their rounding. Float32 with another order of operations may
be as far off on the other side: the tests at 1e-4 run in float64, slowly, the quick ones in float32 at 3e-4.
"""

from __future__ import annotations

import json
import zlib
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunetv2_mstkd.architectures import without_gradients
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.rahved.discriminator import PassDiscriminator
from nnunetv2_mstkd.methods.rahved.layers import Stem, upsample
from nnunetv2_mstkd.methods.rahved.losses import (
    adversarial_loss,
    discriminator_input,
    discriminator_loss,
    prior_divergence,
    reconstruction_loss,
)
from nnunetv2_mstkd.methods.rahved.network import RAHVED, released, released_names

DATA = Path(__file__).resolve().parents[2] / "data" / "rahved"
GOLDEN = dict(np.load(DATA / "network_A.npz"))
MANIFEST = json.loads((DATA / "manifest.json").read_text())["network"]
SHAPES = json.loads((DATA / "state_dict.json").read_text())
ARRAYS = [name for name in GOLDEN if not name.endswith(("_mean", "_std"))]
PATCH = (32, 48, 64)
EXACT, ROUNDED = 1e-4, 3e-4
SUBSETS = {"0": (0,), "13": (1, 3), "023": (0, 2, 3)}
GENERATOR_WEIGHTS = {"dice_full": 1, "dice_missing": 1, "recon_mse": 0.2, "kld": 0.2, "gan_generator": 0.1}


def normal(name: str, shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def golden_weights(part: str) -> dict[str, torch.Tensor]:
    weights = {}
    for key, shape in SHAPES[part].items():
        z = normal(f"A/rahved/{part}/{key}", shape)
        weights[key] = z * (shape[0] / z.numel()) ** 0.5 if z.ndim >= 2 else 0.05 * z
    return weights


def golden_input(*present: int, name: str = "input") -> torch.Tensor:
    x = normal(f"A/rahved/{name}", (1, 4, *PATCH))
    return only(x, *(present or range(4)))


def only(x: torch.Tensor, *present: int) -> torch.Tensor:
    absent = [m for m in range(x.shape[1]) if m not in present]
    x = x.clone()
    x[:, absent] = 0
    return x


def golden_network(dtype: torch.dtype) -> RAHVED:
    network = released(PATCH)
    network.load_released_state_dict(golden_weights("net"))
    return network.to(dtype)


def outputs(network: RAHVED, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """All that the golden file knows of a pass, by its names."""
    shown: dict[str, torch.Tensor] = {}
    handles = []

    def keep(module: torch.nn.Module, name: str) -> None:
        def hook(module, inputs, output):
            shown[name] = output.clone()  # where no gradient is asked for, maps are overwritten

        handles.append(module.register_forward_hook(hook))

    for level in range(4):
        keep(network.fusions[level].expand, f"expand{level}")
        keep(network.fusions[level], f"skip{level}")
        keep(network.encoders[0].posteriors[level], f"drb{level}_mod0")
        for modality in (0, 3):
            keep(network.encoders[modality].levels[level], f"enc{level}_mod{modality}")
    for step in range(3):
        keep(network.decoder.attention[step], f"attended{step}")
        keep(network.decoder.steps[step], f"dec{step}")
        keep(network.reconstruction_decoders[2].steps[step], f"recondec{step}_mod2")
    taps = network(x, return_taps=True)
    for handle in handles:
        handle.remove()
    for level, mean in enumerate(taps.inner["posterior_means"]):
        shown[f"poe_mu{level}"] = mean
    for level, log_variance in enumerate(taps.inner["posterior_log_variances"]):
        shown[f"poe_logvar{level}"] = log_variance
    return shown | {
        "logits": taps.logits,
        "output": taps.logits.sigmoid(),
        "recon": taps.inner["reconstruction"],
    }


def compare(case: str, ours: dict[str, torch.Tensor], tolerance: float) -> None:
    names = [name for name in ARRAYS if name.startswith(case + "/")]
    assert names
    for name in names:
        is_golden(name, ours[name.removeprefix(case + "/")], tolerance)


def is_golden(name: str, ours: torch.Tensor, tolerance: float) -> None:
    expected, entry = GOLDEN[name], MANIFEST[name]
    assert list(ours.shape) == entry["tensor_shape"], name
    sampled = ours.detach().flatten()[:: entry["stride"]].numpy()
    spread = float(GOLDEN[f"{name}_std"])
    np.testing.assert_allclose(sampled, expected, rtol=0, atol=tolerance * spread, err_msg=name)
    assert float(ours.mean()) == pytest.approx(float(GOLDEN[f"{name}_mean"]), abs=tolerance * spread), name
    assert float(ours.std()) == pytest.approx(spread, abs=tolerance * spread), name


@pytest.fixture
def noise_of_ones(monkeypatch):
    """Sampling as in the golden file: one standard deviation above the mean, nothing dropped."""
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)

    def prepare(network: RAHVED) -> RAHVED:
        for module in network.train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0
        return network

    return prepare


def test_full_pass_equals_the_released_code_up_to_rounding():
    with torch.no_grad():
        compare("full", outputs(golden_network(torch.float32), golden_input()), ROUNDED)


def test_mixed_batch_equals_the_released_code_up_to_rounding():
    x = torch.cat((golden_input(0), golden_input(1, 3, name="input2")))
    with torch.no_grad():
        logits = golden_network(torch.float32)(x)
    compare("batch2_instance_missing", {"output": logits.sigmoid()}, ROUNDED)


@pytest.fixture(scope="module")
def exact_network() -> RAHVED:
    return golden_network(torch.float64)


@pytest.mark.slow
def test_full_pass_equals_the_released_code(exact_network):
    with torch.no_grad():
        compare("full", outputs(exact_network, golden_input().double()), EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS)
def test_subset_equals_the_released_code(exact_network, subset):
    with torch.no_grad():
        ours = outputs(exact_network, golden_input(*SUBSETS[subset]).double())
    compare(f"subset_{subset}", ours, EXACT)


@pytest.mark.slow
def test_mixed_batch_equals_the_released_code(exact_network):
    x = torch.cat((golden_input(0), golden_input(1, 3, name="input2")))
    with torch.no_grad():
        logits = exact_network(x.double())
    compare("batch2_instance_missing", {"output": logits.sigmoid()}, EXACT)


def training_step(network: RAHVED, discriminator: PassDiscriminator, dtype: torch.dtype) -> SimpleNamespace:
    """Forward passes and terms of the golden step: modalities 1 and 2 are missing."""
    x = golden_input().to(dtype)
    full, missing = outputs(network, x), outputs(network, only(x, 0, 3))
    seen_full, seen_missing = (
        discriminator_input(probabilities=p["output"], reconstruction=p["recon"], regions=True)
        for p in (full, missing)
    )
    judged_missing, judged_full = discriminator(torch.cat((seen_missing, seen_full.detach()))).chunk(2)
    means, log_variances = (
        [missing[f"poe_{what}{level}"] for level in range(4)] for what in ("mu", "logvar")
    )
    target = golden_target().to(dtype)
    terms = {
        "dice_full": dice_loss(full["output"], target),
        "dice_missing": dice_loss(missing["output"], target),
        "recon_mse": reconstruction_loss(reconstruction=missing["recon"], images=x),
        "kld": prior_divergence(means=means, log_variances=log_variances),
        "gan_generator": adversarial_loss(missing=judged_missing),
        "d_fake": judged_missing.square().mean(),
        "d_real": (judged_full - 1).square().mean(),
        "total_discriminator": 0.1 * discriminator_loss(missing=judged_missing, full=judged_full),
    }
    terms["total_generator"] = sum(weight * terms[name] for name, weight in GENERATOR_WEIGHTS.items())
    for level, pair in enumerate(zip(means, log_variances, strict=True)):
        mean, log_variance = pair
        terms[f"kld_level{level}"] = prior_divergence(means=[mean], log_variances=[log_variance])
    maps = {"d_input_missing": seen_missing, "d_out_fake": judged_missing, "d_out_real": judged_full}
    return SimpleNamespace(full=full, missing=missing, terms=terms, maps=maps)


def golden_target() -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(b"A/rahved/label"))
    label = (torch.rand((1, *PATCH), generator=generator) * 4).long().clamp(max=3)
    return torch.stack((label > 0, (label == 1) | (label == 3), label == 3), dim=1)


def dice_loss(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The released segmentation loss, which a trainer replaces by nnU-Net's."""
    axes = (0, 2, 3, 4)
    overlap = 2 * (p * y).sum(axes) / (p.square().sum(axes) + y.square().sum(axes)).clamp_min(1e-6)
    return 1 - overlap.mean()


def golden_discriminator(dtype: torch.dtype) -> PassDiscriminator:
    discriminator = PassDiscriminator(7, PATCH)
    discriminator.load_released_state_dict(golden_weights("disc"))
    return discriminator.to(dtype)


@pytest.mark.slow
def test_training_step_equals_the_released_code(noise_of_ones):
    network = noise_of_ones(golden_network(torch.float64))
    with torch.no_grad():
        step = training_step(network, golden_discriminator(torch.float64), torch.float64)
    compare("full_sampled", step.full, EXACT)
    compare("subset_sampled", step.missing, EXACT)
    for name, value in step.terms.items():
        assert float(value) == pytest.approx(float(GOLDEN[f"step/{name}"]), rel=1e-5), name
    for name, value in step.maps.items():
        is_golden(f"step/{name}", value, EXACT)


@pytest.mark.slow
def test_gradients_of_a_training_step_equal_the_released_code(noise_of_ones):
    network = noise_of_ones(golden_network(torch.float32))
    discriminator = golden_discriminator(torch.float32)
    terms = training_step(network, discriminator, torch.float32).terms
    ours = {theirs: key for key, theirs in released_names(network).items()}
    parameters = dict(network.named_parameters())
    in_their_order = [parameters[ours[key]] for key in SHAPES["net"]]
    for total, weights, golden in (
        ("total_generator", in_their_order, GOLDEN["step/grad_norm_net"]),
        ("total_discriminator", list(discriminator.parameters()), GOLDEN["step/grad_norm_disc"]),
    ):
        gradients = torch.autograd.grad(terms[total], weights, retain_graph=True)
        norms = [float(gradient.norm()) for gradient in gradients]
        np.testing.assert_allclose(norms, golden, rtol=0, atol=5e-3 * golden.max())


def test_every_golden_array_is_compared():
    cases = {"full", "batch2_instance_missing", "full_sampled", "subset_sampled", "step"}
    cases |= {f"subset_{subset}" for subset in SUBSETS}
    assert {name.split("/")[0] for name in ARRAYS} == cases
    terms = {*GENERATOR_WEIGHTS, "total_generator", "total_discriminator", "d_fake", "d_real"}
    terms |= {f"kld_level{level}" for level in range(4)}
    others = {"d_input_missing", "d_out_fake", "d_out_real", "grad_norm_net", "grad_norm_disc"}
    assert {name.split("/")[1] for name in ARRAYS if name.startswith("step/")} == terms | others


def test_parameters_and_keys_are_the_authors():
    network, discriminator = released(), PassDiscriminator(7, (112, 112, 112))
    names = released_names(network)
    shapes = {names[key]: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == SHAPES["net"]
    assert sum(p.numel() for p in network.parameters()) == 5_915_285
    assert sum(p.numel() for p in network.reconstruction_decoders.parameters()) == 4 * 580_849
    assert sum(p.numel() for p in discriminator.parameters()) == 11_072_448


@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_weights_load_with_and_without_prefix(prefix):
    network = released((16, 16, 16))
    weights = golden_weights("net")
    network.load_released_state_dict({prefix + key: tensor for key, tensor in weights.items()})
    assert torch.equal(network.decoder.head.weight, weights["final_conv.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("final_conv.bias"), r"misses final_conv\.bias;"),
        (lambda w: w.update(another=torch.empty(1)), r"has unknown another;"),
        (
            lambda w: w.update({"final_conv.bias": torch.empty(4)}),
            r"final_conv\.bias \(4,\) instead of \(3,\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_named(change, message):
    weights = {key: torch.empty(shape) for key, shape in SHAPES["net"].items()}
    change(weights)
    network = released()
    with pytest.raises(MSTKDError, match=message):
        network.load_released_state_dict(weights)


def make(patch=(16, 16, 16), modalities=3, strides=None, **kwargs) -> RAHVED:
    torch.manual_seed(0)
    dims = len(patch)
    strides = strides or [[1] * dims] + [[2] * dims] * 3
    return RAHVED(modalities, 4, patch_size=patch, strides=strides, base_features=4, **kwargs)


ANISOTROPIC = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]


@pytest.mark.parametrize(
    ("patch", "modalities", "strides"),
    [
        ((16, 16, 16), 1, None),
        ((16, 16, 16), 7, None),
        ((5, 24, 16), 4, ANISOTROPIC),
        ((13, 9, 21), 2, None),
        ((40, 24), 4, None),
        ((33, 17), 2, [[1, 1], [2, 2]]),
        ((8, 8, 8), 2, None),
    ],
    ids=str,
)
def test_any_patch_and_number_of_modalities(patch, modalities, strides):
    network = make(patch, modalities, strides)
    taps = network(torch.randn(2, modalities, *patch), return_taps=True)
    assert taps.logits.shape == (2, 4, *patch)
    assert taps.inner["reconstruction"].shape == (2, modalities, *patch)
    assert len(taps.inner["posterior_means"]) == min(4, len(strides or [0] * 4))
    (taps.logits.square().mean() + taps.inner["reconstruction"].square().mean()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without  # DDP waits for all
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_another_size_than_the_plans_patch():
    with torch.no_grad():
        assert make().eval()(torch.randn(1, 3, 8, 20, 17)).shape == (1, 4, 8, 20, 17)


def test_upsampled_maps_are_cropped_not_stretched():
    x = torch.randn(1, 2, 8, 4)
    even = upsample(x, (2, 1), (16, 4))
    torch.testing.assert_close(even, F.interpolate(x, size=(16, 4), mode="bilinear"))
    assert torch.equal(upsample(x, (2, 1), (15, 4)), even[:, :, :15])


@pytest.mark.parametrize(
    ("patch", "strides", "base_features"),
    [((16, 16, 16), [[1, 1, 1]], 4), ((16, 16), [[1, 1, 1], [2, 2, 2]], 4), ((16, 16), [[1, 1], [2, 2]], 1)],
)
def test_what_no_network_can_be_built_from_is_refused(patch, strides, base_features):
    with pytest.raises(MSTKDError, match="cannot be built"):
        RAHVED(4, 3, patch_size=patch, strides=strides, base_features=base_features)


def test_an_absent_modality_has_no_influence_and_learns_nothing():
    network = make().eval()
    x = only(torch.randn(1, 3, 16, 16, 16), 0, 2)
    before = network(x)
    before.sum().backward()
    assert not any(p.grad.any() for p in network.encoders[1].parameters())
    with torch.no_grad():
        for parameter in network.encoders[1].parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(network(x), before)


def test_a_mixed_batch_equals_its_samples():
    network = make().double().eval()
    x = torch.randn(3, 3, 16, 16, 16, dtype=torch.float64)
    x[0, 1] = x[1, :2] = 0
    taps = network(x, return_taps=True)
    for sample in range(3):
        alone = network(x[sample : sample + 1], return_taps=True)
        torch.testing.assert_close(taps.logits[sample : sample + 1], alone.logits)
        for name, value in alone.inner.items():
            ours = taps.select(torch.tensor([sample])).inner[name]
            torch.testing.assert_close(ours, value)


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_an_even_image_teaches_its_encoder_nothing(value):
    """Its norms would multiply rounding noise by 300, level after level."""
    network = make()
    x = torch.randn(2, 3, 16, 16, 16)
    x[0] = value
    x[1, 1] = value
    taps = network(x, return_taps=True)
    (taps.logits.sum() + sum(mean.sum() for mean in taps.inner["posterior_means"])).backward()
    norms = [p.grad.norm() for p in network.encoders[1].parameters()]
    assert not any(norms)
    assert max(float(p.grad.norm()) for p in network.parameters() if p.grad is not None) < 1e5


def test_a_patch_of_zeros_leaves_the_prior():
    taps = make().eval()(torch.zeros(1, 3, 16, 16, 16), return_taps=True)
    assert not any(mean.any() for mean in taps.inner["posterior_means"])
    assert not any(log_variance.any() for log_variance in taps.inner["posterior_log_variances"])


def test_sampled_in_training_the_mean_at_inference():
    network, x = make(dropout=0), torch.randn(1, 3, 16, 16, 16)
    torch.manual_seed(1)
    first, second = network(x), network(x)
    torch.manual_seed(1)
    again = network(x)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    network.eval()
    assert torch.equal(network(x), network(x))


def test_reconstruction_runs_only_on_request():
    network, x = make(), torch.randn(1, 3, 16, 16, 16)
    runs = []
    for decoder in network.reconstruction_decoders:
        decoder.register_forward_hook(lambda *_: runs.append(1))
    network(x)
    assert set(network(x, return_taps=("posterior_means",)).inner) == {
        "posterior_means",
        "posterior_log_variances",
    }
    assert not runs
    assert "reconstruction" in network(x, return_taps=("reconstruction",)).inner
    assert len(runs) == 3


@pytest.mark.parametrize(("dims", "dropped"), product((2, 3), (False, True)))
def test_the_stem_is_convolution_dropout_norm_and_activation(dims, dropped):
    torch.manual_seed(0)
    stem = Stem(dims, 6, dropout=0.0).double()
    image = torch.randn(2, 1, *[7] * dims, dtype=torch.float64) * 1e-2  # eps counts
    kept = torch.ones(2, 6, *[1] * dims, dtype=torch.float64)
    if dropped:
        kept[0, 1:3], kept[1, 4] = 0, 1.25
        stem.dropout = torch.nn.Module()
        stem.dropout.forward = lambda ones: ones * kept
    maps = kept * (F.conv2d if dims == 2 else F.conv3d)(image, stem.conv.weight, stem.conv.bias)
    torch.testing.assert_close(stem(image), F.leaky_relu(F.instance_norm(maps), 0.01))


def test_gates_are_their_two_convolutions():
    network = make().double()
    gate = network.decoder.attention[0].skip_gate
    pooled = torch.randn(1, 4, 9, 8, 7, dtype=torch.float64)
    kernel, bias = gate.merged()
    torch.testing.assert_close(F.conv3d(pooled, kernel, bias, padding=3), gate.join(gate.look(pooled)))


def test_shortcuts_without_gradients_change_nothing_but_rounding(monkeypatch):
    monkeypatch.setattr(without_gradients, "_SMALLEST_MAP", 0)
    network = make((16, 16, 24)).eval()
    x = torch.randn(2, 3, 16, 16, 24)
    expected = network(x, return_taps=True)
    with torch.no_grad():
        taps = network(x, return_taps=True)
    for ours, other in (
        (taps.logits, expected.logits),
        (taps.inner["reconstruction"], expected.inner["reconstruction"]),
    ):
        torch.testing.assert_close(ours, other, rtol=0, atol=2e-3 * float(other.detach().std()))


@pytest.mark.parametrize(
    "patch", [(32, 32, 32), (16, 8, 5), (4, 4, 4), (1, 20, 20), (40, 33), (6, 6)], ids=str
)
def test_discriminator_takes_any_patch(patch):
    discriminator = PassDiscriminator(5, patch, base_features=2)
    x = torch.randn(2, 5, *patch, requires_grad=True)
    judged = discriminator(x)
    assert judged.shape[:2] == (2, 1)
    judged.square().mean().backward()
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(discriminator(x[:1]), judged[:1], rtol=1e-4, atol=1e-4)
