"""ACN's network: equal to the released code, and fit for any plan."""

from __future__ import annotations

import pytest
import torch
from acn_golden import NETWORK, SHAPES, assert_same, normal, weights
from torch import Tensor

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.acn.discriminators import entropy_discriminator, feature_discriminator
from nnunetv2_mstkd.methods.acn.network import ACN, released

PATCH = (32, 48, 64)
INPUT = normal("input", (1, 4, *PATCH))
MASKS = ("0001", "1010", "0111")
# Golden name → our module, and the index in its output where that is a tuple.
STAGES = {
    "c1": ("encoder.stages.0", 1),
    "c2": ("encoder.stages.1", 1),
    "c2d": ("encoder.stages.2", 0),
    "c3": ("encoder.stages.2", 1),
    "c3d": ("encoder.stages.3", 0),
    "d4": ("decoder.stages.0", None),
    "d3": ("decoder.stages.1", None),
    "d2": ("decoder.stages.2", None),
    "vae_hidden": ("autoencoder.hidden", None),
    "vae_dense": ("autoencoder.dense", None),
    "vae4": ("autoencoder.enter", None),
    "vae3": ("autoencoder.stages.0", None),
    "vae2": ("autoencoder.stages.1", None),
    "vae1": ("autoencoder.stages.2", None),
}
# What the released code does right behind those modules.
BEHIND = {
    "vae_hidden": lambda x: x.mean((2, 3, 4), keepdim=True),
    "vae_dense": torch.relu,
    "vae4": lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0),
}


def golden_network(part: str, input_channels: int) -> ACN:
    network = released(PATCH, input_channels)
    network.load_released_state_dict(weights(part, SHAPES["full" if input_channels == 4 else "mono"]))
    return network


@torch.no_grad()
def outputs(network: ACN, x: Tensor) -> dict[str, Tensor]:
    """Under the names of the golden file."""
    taps = network(x, return_taps=True)
    return {
        "logits": taps.logits,
        "output": taps.logits.sigmoid(),
        "bottleneck": taps.inner["bottleneck"],
        "vid_mean": taps.inner["prediction"],
        "vid_log_scale": taps.inner["log_scale"][0],
        "recon": taps.inner["reconstruction"],
        "mu": taps.inner["code_mean"],
        "logvar": taps.inner["code_log_variance"],
    }


@pytest.mark.parametrize(("part", "shown"), [("full", slice(0, 4)), ("mono", slice(3, 4))])
def test_every_stage_of_both_released_networks(part, shown):
    network = golden_network(part, len(range(4)[shown]))
    found: dict[str, Tensor] = {}

    def keep(name, index):
        def hook(module, inputs, output):
            output = output if index is None else output[index]
            found[name] = BEHIND.get(name, torch.clone)(output)

        return hook

    for name, (module, index) in STAGES.items():
        network.get_submodule(module).register_forward_hook(keep(name, index))
    found |= outputs(network, INPUT[:, shown])
    arrays = {n for n in NETWORK if n.startswith(f"{part}/") and not n.endswith(("_mean", "_std"))}
    assert {f"{part}/{name}" for name in found} - {f"{part}/vid_mean"} == arrays - {f"{part}/vid_mean"}
    for name, ours in found.items():
        assert_same(ours, f"{part}/{name}")


def test_a_student_that_sees_zeros_for_absent_modalities():
    network = golden_network("zerofill", 4)
    for mask in MASKS:
        shown = torch.tensor([float(bit) for bit in mask]).view(1, 4, 1, 1, 1)
        for name, ours in outputs(network, INPUT * shown).items():
            if f"zerofill_{mask}/{name}" in NETWORK:
                assert_same(ours, f"zerofill_{mask}/{name}")


@torch.no_grad()
def test_a_sampled_code():
    network = golden_network("full", 4)
    features, bottleneck = network.encode(INPUT)
    mean, log_variance = network.autoencoder.describe(bottleneck)
    sizes = [skip.shape[2:] for skip in features.skips] + [bottleneck.shape[2:]]
    assert_same(network.autoencoder.reconstruct(mean + (log_variance / 2).exp(), sizes), "full_noise1/recon")


def test_the_code_is_sampled_in_training_alone():
    network = small(autoencoder=True, dropout=0.0)
    x = torch.randn(1, 4, 16, 24, 16)

    def reconstruction():
        return network(x, return_taps=True).inner["reconstruction"]

    assert torch.equal(reconstruction(), reconstruction())
    network.train()
    assert not torch.equal(reconstruction(), reconstruction())


def test_keys_shapes_and_parameters_are_the_authors():
    for part, channels in (("full", 4), ("mono", 1)):
        network = released(PATCH, channels)
        names = network.released_names()
        assert {names[key]: list(t.shape) for key, t in network.state_dict().items()} == SHAPES[part]
    with torch.device("meta"):
        assert sum(p.numel() for p in released().parameters()) == 9_630_136
        without = ACN(4, 4, patch_size=PATCH, strides=[[1] * 3, *[[2] * 3] * 3])
        assert sum(p.numel() for p in without.parameters()) == 4_704_228 + 49_280


def test_the_regressor_starts_as_released():
    expected = NETWORK["init/vid_log_scale"].item()
    torch.testing.assert_close(small().regressor.log_scale, torch.full((64,), expected))


def test_the_released_discriminators():
    for part, discriminator, count in (
        ("d_main", entropy_discriminator(4, (160, 192, 128)), 11_060_161),
        ("d_feature", feature_discriminator(128, (20, 24, 16)), 4_438_273),
    ):
        assert sum(p.numel() for p in discriminator.parameters()) == count
        theirs = {f"module.{key}": tensor for key, tensor in weights(part, SHAPES[part]).items()}
        discriminator.load_released_state_dict(theirs)
        with pytest.raises(MSTKDError, match=r"misses 0\.bias"):
            discriminator.load_released_state_dict({})


def test_weights_that_do_not_fit_are_named():
    network = small()
    theirs = {network.released_names()[key]: tensor for key, tensor in network.state_dict().items()}
    network.load_released_state_dict(theirs)
    with pytest.raises(MSTKDError, match=r"has unknown vae_branch\.vconv0\.weight"):
        network.load_released_state_dict({**theirs, "vae_branch.vconv0.weight": torch.zeros(1)})


def small(input_channels: int = 4, patch=(16, 24, 16), strides=None, classes: int = 3, **kwargs) -> ACN:
    torch.manual_seed(0)
    dims = len(patch)
    strides = strides or [[1] * dims, *[[2] * dims] * 3]
    sizes = {"patch_size": patch, "strides": strides, "base_features": 8, **kwargs}
    return ACN(input_channels, classes, **sizes).eval()


@pytest.mark.parametrize(
    ("channels", "patch", "strides"),
    [
        (1, (16, 16, 16), None),
        (7, (16, 16, 16), None),
        (4, (13, 10, 7), None),
        (2, (33, 18), None),
        (4, (8, 24, 24), [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]),
        (4, (9, 11, 10), [[1, 1, 1], [1, 2, 2], [2, 3, 3]]),
        (4, (8, 8), [[1, 1], [2, 2]]),
    ],
    ids=["1 modality", "7 modalities", "odd", "2D", "anisotropic", "3 stages", "2 stages"],
)
def test_any_plan_gives_outputs_of_the_patch_and_finite_gradients(channels, patch, strides):
    network = small(channels, patch, strides, autoencoder=True).train()
    taps = network(torch.randn(2, channels, *patch), return_taps=True)
    width = network.bottleneck_channels
    bottleneck = (2, width, *network.bottleneck_size)
    assert taps.logits.shape == (2, 3, *patch)
    assert {name: tuple(t.shape) for name, t in taps.inner.items()} == {
        "bottleneck": bottleneck,
        "prediction": bottleneck,
        "log_scale": (2, width),
        "reconstruction": (2, channels, *patch),
        "code_mean": (2, width // 4),
        "code_log_variance": (2, width // 4),
    }
    sum(t.square().mean() for t in [taps.logits, *taps.inner.values()]).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_another_patch_than_the_plans():
    network = small(autoencoder=True)
    taps = network(torch.randn(1, 4, 21, 8, 30), return_taps=True)
    assert taps.logits.shape == (1, 3, 21, 8, 30)
    assert taps.inner["reconstruction"].shape == (1, 4, 21, 8, 30)


def test_only_what_is_asked_for_runs():
    network = small(autoencoder=True)
    x = torch.randn(1, 4, 16, 16, 16)
    ran = []
    for name in ("regressor", "autoencoder"):
        network.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    assert isinstance(network(x), Tensor)
    assert set(network(x, return_taps=["bottleneck"]).inner) == {"bottleneck"}
    assert not ran
    assert set(network(x, return_taps=["prediction"]).inner) == {"bottleneck", "prediction", "log_scale"}
    network(x, return_taps=["reconstruction"])
    assert ran == ["regressor", "autoencoder"]


@torch.no_grad()
def test_an_absent_modality_has_no_influence_and_a_batch_equals_its_samples():
    network = small(autoencoder=True)
    x = torch.randn(2, 4, 16, 24, 16)
    x[0, 1:3] = 0
    x[1, 0] = 0
    batch = network(x, return_taps=True)
    for i in range(2):
        single, part = network(x[i : i + 1], return_taps=True), batch.select(torch.tensor([i]))
        torch.testing.assert_close(part.logits, single.logits)
        torch.testing.assert_close(part.inner, single.inner)
    network.encoder.stages[0].conv.weight[:, 1:3] += 1
    torch.testing.assert_close(network(x[:1]), batch.logits[:1])
