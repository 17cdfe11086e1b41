"""RMBTS against numbers of the released code, and on plans that it was not made for.

tests/data/rmbts: network_A.npz holds sub-sampled outputs of github.com/cchen-cc/Robust-Mseg, commit fa35dda,
for weights and input made by the rule of ``golden_weight``, with ``NAME_mean`` and ``NAME_std`` of the whole
tensor; network_A_index.json their sub-sampling; state_dict.json keys, shapes, TensorFlow's names and what is
decayed. Tolerances: arrays 2e-4 of the tensor's standard deviation, losses relative 1e-5, gradients as
``assert_golden_gradients`` says.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.rmbts.layers import ConvUnit, dense
from nnunetv2_mstkd.methods.rmbts.losses import modulation_loss, reconstruction_loss
from nnunetv2_mstkd.methods.rmbts.network import RMBTS, released
from nnunetv2_mstkd.methods.rmbts.released_weights import from_tensorflow, released_names

DATA = Path(__file__).parents[2] / "data" / "rmbts"
RELEASED = json.loads((DATA / "state_dict.json").read_text())
STRIDES = {n: tuple(v["strides"]) for n, v in json.loads((DATA / "network_A_index.json").read_text()).items()}
GOLDEN = dict(np.load(DATA / "network_A.npz"))
MODALITIES = ("flair", "t1c", "t1", "t2")
MASKS = ("1111", "0010", "1001", "0111")


def normal(name: str, shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"A/rmbts/{name}".encode())))


def golden_weight(key: str, shape) -> torch.Tensor:
    """Value of a released key, seeded by its name; the first rule that matches counts."""
    z = normal(key, shape)
    if key.endswith(("mlp.mu.linear.bias", "mlp.sigma.linear.bias")):
        return 1 + 0.1 * z
    if "layer_norm" in key:
        return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z
    if z.ndim >= 2:
        boost = 2 if key.startswith("se_") and key.endswith("conv.weight") else 1
        return z.mul_((boost * shape[0] / z.numel()) ** 0.5)
    return 1 + 0.1 * z if key.endswith("weight") else 0.05 * z


def meta_network() -> RMBTS:
    """Shapes without storage, and without the time that drawing weights takes."""
    with torch.device("meta"):
        return released()


@pytest.fixture(scope="module")
def golden_network() -> RMBTS:
    network = meta_network().to_empty(device="cpu")
    network.load_released_state_dict({key: golden_weight(key, v["shape"]) for key, v in RELEASED.items()})
    return network


@pytest.fixture(scope="module")
def golden_input() -> torch.Tensor:
    return normal("input", (1, 4, 32, 48, 40))


def watch(network: RMBTS) -> dict[str, torch.Tensor]:
    """Collect what passes through the modules that golden arrays are of; an array's name → output."""
    watched = {}
    for level in range(4):
        for m, modality in enumerate(MODALITIES):
            watched[f"content_{modality}_s{level + 1}"] = network.encoder[level][m]
        watched[f"gate_c{level + 1}"] = network.fusions[level].gate
        watched[f"fused_c{level + 1}"] = network.fusions[level]
    for step in range(3):
        watched[f"dec_d{step + 1}"] = network.decoder.steps[step]
        watched[f"image_de_flair_up{2 - step}"] = network.reconstruction.decoders[0].steps[step]
    for block in (0, 3):
        watched[f"image_de_flair_res{block}"] = network.reconstruction.decoders[0].blocks[block]
    seen: dict[str, torch.Tensor] = {}

    def keep(name, output):
        seen[name] = output.sigmoid() if name.startswith("gate") else output

    for name, module in watched.items():
        module.register_forward_hook(lambda *args, name=name: keep(name, args[-1]))
    return seen


def assert_golden(name: str, ours: torch.Tensor) -> None:
    scale = float(GOLDEN[f"{name}_std"])
    sampled = ours[tuple(slice(None, None, step) for step in STRIDES[name])]
    np.testing.assert_allclose(sampled.numpy(), GOLDEN[name], rtol=0, atol=2e-4 * scale, err_msg=name)
    assert float(ours.double().mean()) == pytest.approx(float(GOLDEN[f"{name}_mean"]), abs=2e-4 * scale)
    assert float(ours.double().std(correction=0)) == pytest.approx(scale, abs=2e-4 * scale)


def bits(*masks: str) -> torch.Tensor:
    return torch.tensor([[bit == "1" for bit in mask] for mask in masks])


def voxel(codes: torch.Tensor) -> torch.Tensor:
    return codes[..., None, None, None]


@pytest.fixture
def watched(golden_network):
    seen = watch(golden_network)
    yield seen
    for module in golden_network.modules():
        module._forward_hooks.clear()


# ---------------------------------------------------------------------------------------- released network


@torch.no_grad()
def test_segmentation_equals_the_released_code(golden_network, golden_input, watched):
    masks = ("1111", "1001")
    logits = golden_network(golden_input.expand(2, -1, -1, -1, -1), present=bits(*masks))
    seen = {**watched, "seg_logit": logits}
    compared = 0
    for sample, mask in enumerate(masks):
        for name, output in seen.items():
            golden = f"m{mask}_{name}" if f"m{mask}_{name}" in STRIDES else name
            # Content of hidden modalities is golden before it is hidden; ours goes on from zeros.
            if golden in STRIDES and not (name.startswith("content") and mask != "1111"):
                assert_golden(golden, output[[sample]])
                compared += 1
    assert compared == 16 + 2 * (1 + 4 + 4 + 3)
    counts = torch.bincount(logits[0].argmax(0).flatten(), minlength=5)
    # Rounding may decide a voxel in which two classes are equal.
    assert abs(counts - torch.from_numpy(GOLDEN["argmax_counts_m1111"])).max() <= 4
    assert_golden("m1111_seg_pred", logits[:1].softmax(1))


@torch.no_grad()
def test_styles_and_one_image_equal_the_released_code(golden_network, golden_input, watched):
    parts = golden_network.reconstruction
    for m, modality in enumerate(MODALITIES):
        style = parts.style_encoders[m](golden_input[:, [m]])
        gain, shift = parts.decoders[m].modulation(style)
        for name, ours in (("style", style), ("mu", gain), ("sigma", shift)):
            assert_golden(f"{name}_{modality}", voxel(ours))
    fused = golden_network._fused(golden_input, bits("1111"))
    features, *_ = parts.decoders[0](fused[-1], parts.style_encoders[0](golden_input[:, :1]))
    for name, output in watched.items():
        if name.startswith("image_de_flair"):
            assert_golden(f"m1111_{name}", output)
    assert_golden("m1111_recon_flair", parts.head(features))


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_every_array_equals_the_released_code(golden_network, golden_input, watched, mask):
    taps = golden_network(golden_input, return_taps=True, present=bits(mask))
    seen = {f"m{mask}_{name}": output for name, output in watched.items()}
    seen[f"m{mask}_seg_logit"] = taps.logits
    for m, modality in enumerate(MODALITIES):
        seen[f"m{mask}_recon_{modality}"] = taps.inner["reconstructions"][:, [m]]
        for name, tap in (("style", "styles"), ("mu", "gains"), ("sigma", "shifts")):
            assert_golden(f"{name}_{modality}", voxel(taps.inner[tap][:, m]))
    expected = {n for n in STRIDES if n.startswith(f"m{mask}_") and n != "m1111_seg_pred"}
    assert expected <= seen.keys()
    for name in expected:
        assert_golden(name, seen[name])


@pytest.mark.slow
def test_a_training_step_equals_the_released_code(golden_network, golden_input):
    generator = torch.Generator().manual_seed(zlib.crc32(b"A/rmbts/label"))
    label = torch.randint(0, 5, (1, 32, 48, 40), generator=generator)
    golden_network.zero_grad()
    taps = golden_network(golden_input, return_taps=True, present=bits("1001"))
    ce, dice = released_segmentation_losses(taps.logits.softmax(1), label)
    each = {"ce": ce, "dice": dice}
    for m, modality in enumerate(MODALITIES):
        one = slice(m, m + 1)
        modulation = {"gain": taps.inner["gains"][:, one], "shift": taps.inner["shifts"][:, one]}
        images = {"reconstruction": taps.inner["reconstructions"][:, one], "image": golden_input[:, one]}
        each[f"kl_{modality}"] = modulation_loss(**modulation)
        each[f"rec_{modality}"] = reconstruction_loss(**images)
    for name, loss in each.items():
        assert loss.item() == pytest.approx(float(GOLDEN[f"train_m1001_{name}"]), rel=1e-5), name
    penalty = sum(5e-5 * p.square().sum() for p in golden_network.decayed_parameters())
    weights = {name: 0.1 if name.startswith(("kl", "rec")) else 1.0 for name in each}
    total = sum(weights[name] * loss for name, loss in each.items()) + penalty
    assert total.item() == pytest.approx(float(GOLDEN["train_m1001_total"]), rel=1e-5)
    total.backward()
    assert_golden_gradients(golden_network)


def released_segmentation_losses(p: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The released cross-entropy and Dice; this package trains with nnU-Net's instead."""
    y = F.one_hot(label, 5).movedim(-1, 1).float()
    axes = (0, 2, 3, 4)
    weights = 1 - y.sum(axes) / y.sum()
    ce = -(weights.view(1, 5, 1, 1, 1) * y * p.clamp(0.005, 1).log()).sum(1).mean()
    overlap = 2 * (p * y).sum(axes) / (p.square().sum(axes) + y.sum(axes) + 1e-7)
    return ce, 1 - overlap.mean()


def assert_golden_gradients(network: RMBTS) -> None:
    """Norms: relative 2e-3 above 1e-5 of the largest, 1e-2 above 1e-7; first entries: 2e-2 of the norm."""
    gradients = {name: p.grad for name, p in zip_released(network)}
    norms = GOLDEN["train_grad_norm"]
    compared = 0
    for key, norm, first in zip(RELEASED, norms, GOLDEN["train_grad_first4"], strict=True):
        share, gradient = norm / norms.max(), gradients[key]
        if share > 1e-7:
            tolerance = 2e-3 if share > 1e-5 else 1e-2
            assert float(gradient.norm()) == pytest.approx(float(norm), rel=tolerance), key
            few = gradient.flatten()[:4].numpy()
            np.testing.assert_allclose(few, first[: len(few)], rtol=0, atol=2e-2 * norm, err_msg=key)
            compared += 1
        else:  # biases in front of a norm, and what belongs to hidden modalities
            assert float(gradient.norm()) < 1e-6 * norms.max(), key
    assert compared == 311


def zip_released(network: RMBTS):
    names = released_names(network)
    return ((names[key], parameter) for key, parameter in network.named_parameters())


def test_parameters():
    network = meta_network()
    counts: Counter[str] = Counter()
    for name, parameter in zip_released(network):
        part = name.split(".")[0]
        counts[part if part in ("G_logit", "mask_de") else part.split("_")[0]] += parameter.numel()
    assert counts == {
        "se": 11_060_000,
        "ce": 5_871_744,
        "att": 103_728,
        "fusion": 87_760,
        "image": 19_739_968,
        "G_logit": 5_489,
        "mask_de": 587_077,
    }
    assert sum(counts.values()) == 37_455_766
    with torch.device("meta"):
        bare = RMBTS(4, 5, patch_size=(80,) * 3, strides=[(1,) * 3] + [(2,) * 3] * 3, reconstruction=False)
    assert sum(p.numel() for p in bare.parameters()) == 6_650_309
    assert {k for k in network.state_dict() if not k.startswith("reconstruction.")} == set(bare.state_dict())


def test_keys_and_shapes_are_the_authors():
    names = released_names(network := meta_network())
    shapes = {names[key]: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == {key: value["shape"] for key, value in RELEASED.items()}


def test_decayed_are_those_of_the_released_code(golden_network):
    decayed = {id(p) for p in golden_network.decayed_parameters()}
    penalties: dict[str, float] = defaultdict(float)
    for name, parameter in zip_released(golden_network):
        group = RELEASED[name]["l2"]
        assert (id(parameter) in decayed) == (group is not None), name
        if group is not None:
            penalties[group] += 5e-5 * float(parameter.detach().square().sum())
    for group, penalty in penalties.items():
        assert penalty == pytest.approx(float(GOLDEN[f"train_m1001_l2_{group}"]), rel=1e-5)


def test_tensorflow_variables_are_understood():
    ours = {key: torch.empty(v["shape"], device="meta") for key, v in RELEASED.items()}
    theirs = {v["tf"]: channels_last(ours[key]) for key, v in RELEASED.items()}
    optimizer = {"Model/G_logit/conv3d/kernel/Adam_1": theirs["Model/G_logit/conv3d/kernel"]}
    converted = from_tensorflow(theirs | optimizer | {"beta1_power": torch.empty(())})
    assert {k: t.shape for k, t in converted.items()} == {k: t.shape for k, t in ours.items()}
    kernel = torch.randn(3, 2, 7, 6, 5)
    back = from_tensorflow({"Model/mask_de/d1_c1/conv3d/kernel": channels_last(kernel).numpy()})
    assert torch.equal(back["mask_de.d1_c1.conv.weight"], kernel)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Kernels as TensorFlow has them."""
    return tensor.permute(*range(2, tensor.ndim), 1, 0) if tensor.ndim > 1 else tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("G_logit.conv.bias"), r"misses G_logit\.conv\.bias;"),
        (lambda w: w.update(other=torch.empty(1)), r"has unknown other;"),
        (
            lambda w: w.update({"G_logit.conv.bias": torch.empty(2)}),
            r"another shape for G_logit\.conv\.bias \(2,\) instead of \(1,\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_named(change, message):
    weights = {key: torch.empty(v["shape"], device="meta") for key, v in RELEASED.items()}
    change(weights)
    with pytest.raises(MSTKDError, match=message):
        meta_network().load_released_state_dict({f"module.{key}": value for key, value in weights.items()})


# ------------------------------------------------------------------------------------------ any other plan


def small(
    modalities: int = 3,
    patch=(16, 16, 16),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    classes: int = 2,
    **settings,
) -> RMBTS:
    torch.manual_seed(0)
    sizes = {"base_features": 2, "style_features": 3} | settings
    network = RMBTS(modalities, classes, patch_size=patch, strides=strides, **sizes)
    for parameter in network.parameters():  # as released they are too small to see anything
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return network


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_absent_modality_has_no_influence():
    network, x = small(), images(1, 3, 16, 16, 16)
    hidden = torch.tensor([[True, False, True]])
    zeroed = x * hidden.view(1, 3, 1, 1, 1)
    expected = network(zeroed)
    assert torch.equal(network(x, present=hidden), expected)
    assert torch.equal(network(x * torch.tensor([1, 7, 1.0]).view(1, 3, 1, 1, 1), present=hidden), expected)
    assert not torch.equal(network(x), expected)
    for part in (network.encoder[0][1], network.encoder[2][1]):
        for parameter in part.parameters():
            parameter.mul_(3)
    assert torch.equal(network(zeroed), expected)


@torch.no_grad()
def test_taps_change_nothing_and_hidden_images_are_reconstructed():
    network, x = small(), images(2, 3, 16, 16, 16)
    hidden = torch.tensor([[True, False, True], [False, True, False]])
    taps = network(x, return_taps=True, present=hidden)
    assert isinstance(taps, NetworkTaps)
    assert torch.equal(taps.logits, network(x, present=hidden))
    shapes = {name: tuple(tap.shape) for name, tap in taps.inner.items()}
    assert shapes == {
        "reconstructions": (2, 3, 16, 16, 16),
        "styles": (2, 3, 3),
        "gains": (2, 3, 8),
        "shifts": (2, 3, 8),
    }
    full = network(x, return_taps=["styles"])
    assert torch.equal(full.inner["styles"], taps.inner["styles"])
    assert network(x, return_taps=["something else"]).inner == {}


@torch.no_grad()
def test_batch_equals_its_samples():
    network, x = small(), images(3, 3, 16, 16, 16)
    x[0, 1] = x[1, 0] = x[1, 2] = 0
    taps = network(x, return_taps=True)
    for sample in range(3):
        single = network(x[[sample]], return_taps=True)
        torch.testing.assert_close(taps.logits[[sample]], single.logits, rtol=0, atol=2e-5)
        for name, tap in single.inner.items():
            torch.testing.assert_close(taps.inner[name][[sample]], tap, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("modalities", "patch", "strides"),
    [
        (1, (13, 17, 9), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
        (7, (8, 8, 8), ((1, 1, 1), (2, 2, 2))),
        (2, (5, 16, 18), ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))),
        (2, (1, 16, 16), ((1, 1, 1), (1, 2, 2), (1, 2, 2))),
        (2, (6, 12, 12), ((1, 1, 1), (2, 2, 2), (1, 2, 2))),
        (4, (30, 22), ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2))),
        (2, (3, 33), ((1, 1), (1, 2))),
    ],
    ids=["odd", "7 modalities", "anisotropic", "flat", "late", "2D", "2D anisotropic"],
)
def test_other_patches_and_strides(modalities, patch, strides):
    network, x = small(modalities, patch, strides), images(2, modalities, *patch)
    taps = network(x, return_taps=True)
    assert taps.logits.shape == (2, 2, *patch)
    assert taps.inner["reconstructions"].shape == x.shape
    loss = taps.logits.square().mean() + reconstruction_loss(
        reconstruction=taps.inner["reconstructions"], image=x
    )
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("empty", ["patch", "modality", "present"])
def test_gradients_of_samples_without_anything_to_see_are_zero(empty):
    network, x = small(2), images(1, 2, 16, 16, 16)
    present = torch.tensor([[True, True]])
    if empty == "patch":
        x.zero_()
    else:
        x[0, 0] = 0
        present[0, 1] = empty != "present"
    taps = network(x, return_taps=True, present=present)
    assert torch.isfinite(taps.logits).all()
    loss = taps.logits.square().sum() + taps.inner["reconstructions"].square().sum()
    loss.backward()
    total = sum(float(p.grad.norm()) for p in network.parameters())
    if empty == "modality":
        assert 0 < total < float("inf")
        assert not any(p.grad.any() for p in network.reconstruction.decoders[0].parameters())
    else:
        assert total == 0


@pytest.mark.parametrize("training", [True, False])
def test_without_reconstruction(training):
    whole, x = small(), images(1, 3, 16, 16, 16)
    bare = small(reconstruction=False).train(training)
    bare.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("reconstruction.")})
    assert torch.equal(bare(x), whole(x))
    assert bare(x, return_taps=True).inner == {}


def test_autocast_keeps_modulations_in_float32():
    network, x = small(), images(1, 3, 16, 16, 16)
    exact = network(x, return_taps=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taps = network(x, return_taps=True)
    assert taps.inner["gains"].dtype == taps.inner["shifts"].dtype == torch.float32
    difference = (taps.logits.float() - exact.logits).std() / exact.logits.std()
    assert difference < 0.1


def test_initialisation_is_the_released_one():
    unit, linear = ConvUnit(3, 32, 64), dense(64, 64)
    kernel, bias = unit.conv.weight.detach(), unit.conv.bias.detach()
    assert float(kernel.std()) == pytest.approx(0.0088, rel=0.03)  # 0.01, cut off at 0.02
    assert float(kernel.abs().max()) <= 0.02
    bound = (3 / 64) ** 0.5
    assert 0.9 * bound < float(bias.abs().max()) <= bound
    assert unit.norm.weight.eq(1).all()
    assert not unit.norm.bias.any()
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert not linear.bias.any()


@pytest.mark.parametrize(
    "settings",
    [{"strides": ((1, 1, 1),)}, {"strides": ((1, 1), (2, 2))}, {"base_features": 0}, {"style_features": 0}],
    ids=["one stage", "2D strides", "no features", "no style"],
)
def test_what_cannot_be_built_is_refused(settings):
    with pytest.raises(MSTKDError, match="RMBTS cannot be built with"):
        small(**settings)
