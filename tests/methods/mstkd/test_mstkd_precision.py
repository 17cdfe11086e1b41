"""Mixed precision: a term has the value that float32 gives it, within 1 %."""

from __future__ import annotations

from pydoc import locate

import pytest
import torch
from fake_taps import fake_taps
from torch import nn

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.methods.mstkd.objective import MSTKDObjective
from nnunetv2_mstkd.methods.mstkd.sizes import mstkdnet_kwargs
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES, ObjectiveConfig

# The hinge compares losses with a target, and has tests of its own.
DISTILLATION = [n for n in TERM_NAMES if "segmentation" not in n and n != "more_vs_fewer"]


def terms(variant, regions, student, teacher, style_discriminator):
    """Values of all distillation terms, the official Gram term included."""
    everything = dict.fromkeys(TERM_NAMES, 0.0) | dict.fromkeys(DISTILLATION, 1.0)
    base = ObjectiveConfig() if variant == "default" else ObjectiveConfig.official()
    objective = MSTKDObjective(
        base.with_weights(everything),
        regions=regions,
        segmentation_loss=lambda logits, target: logits.sum(),
        variant=variant,
        background_channel=None,
    )
    return objective(
        student=student,
        teacher=teacher,
        target=None,
        epoch=1,
        num_epochs=1,
        style_discriminator=style_discriminator,
    ).terms


def cast(taps, dtype):
    def each(value):
        return [v.to(dtype) for v in value] if isinstance(value, list) else value.to(dtype)

    return NetworkTaps(each(taps.logits), {name: each(value) for name, value in taps.inner.items()})


def assert_same(values, expected, tolerance):
    assert set(values) == set(expected) == set(DISTILLATION)
    for name, value in values.items():
        assert value.dtype == torch.float32, name
        assert float(value.detach()) == pytest.approx(float(expected[name].detach()), rel=tolerance), name


all_objectives = pytest.mark.parametrize(
    ("variant", "regions"), [("default", True), ("default", False), ("official", True), ("official", False)]
)


@all_objectives
def test_autocast_around_the_objective_changes_nothing(variant, regions):
    torch.manual_seed(0)
    taps = fake_taps(1), fake_taps(2), nn.Conv3d(6, 1, 4)
    expected = terms(variant, regions, *taps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(terms(variant, regions, *taps), expected, 1e-6)


@all_objectives
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_taps_in_half_precision(variant, regions, dtype):
    torch.manual_seed(0)
    student, teacher, judge = fake_taps(1), fake_taps(2), nn.Conv3d(6, 1, 4)
    expected = terms(variant, regions, student, teacher, judge)
    values = terms(variant, regions, cast(student, dtype), cast(teacher, dtype), judge)
    assert_same(values, expected, 0.01)
    sum(values.values()).backward()
    assert all(
        t.grad.isfinite().all() for t in (student.logits, student.inner["style"], *student.inner["attention"])
    )


def small_network():
    plan = {
        "n_stages": 3,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": 3,
        "strides": [1, 2, 2],
        "features_per_stage": [8, 16, 32],
        "n_conv_per_stage": [2, 2, 2],
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "nonlin": "torch.nn.LeakyReLU",
    }
    kwargs = mstkdnet_kwargs(plan, [16] * 3)
    kwargs |= {name: locate(kwargs[name]) for name in ("conv_op", "norm_op", "nonlin")}
    kwargs |= {"token_features": 64, "token_heads": 2, "token_layers": 4, "token_taps": [1, 2, 3, 4]}
    network = MSTKDNet(input_channels=4, num_classes=3, **kwargs)
    network.apply(MSTKDNet.initialize)
    return network.eval()


ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@torch.no_grad()
@pytest.mark.parametrize("variant", ["default", "official"])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=ON_GPU),
        pytest.param("cuda", torch.float16, marks=ON_GPU),
    ],
)
def test_networks_under_autocast(variant, device, dtype):
    """From the input on: two networks and the objective in one autocast region, as the trainers have it."""
    torch.manual_seed(2)
    student, teacher = small_network().to(device), small_network().to(device)
    judge = StyleDiscriminator(student.style_channels, student.bottleneck_size).to(device)
    full = torch.randn(2, 4, 16, 16, 16).to(device)
    masked = full.clone()
    masked[:, 1:3] = 0

    def values():
        taps = student(masked, return_taps=True), teacher(full, return_taps=True)
        return terms(variant, True, *taps, judge)

    expected = values()
    with torch.autocast(device, dtype=dtype):
        assert student(masked).dtype == dtype
        assert_same(values(), expected, 0.01)
