"""Weights of one network as the start of another: input channels, heads, nnssl's pre-trained encoders."""

from __future__ import annotations

import re

import pytest
import torch
from nnssl_checkpoint import (
    STEM,
    adaptation_plan,
    encoder_alone,
    pretrained_network,
    sparse,
    write_checkpoint,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tiny_dataset import dataset_json

from benchmarks.plans import mstkd_architecture, unet
from nnunetv2_mstkd.architectures.borrowing import borrow_features
from nnunetv2_mstkd.architectures.conditioning import CONDITIONING_WEIGHT, condition_on_absence
from nnunetv2_mstkd.architectures.lenders import lenders_by_name
from nnunetv2_mstkd.architectures.starting_weights import put_into
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.starting_weights import (
    StartingWeights,
    planned_architecture,
    read_starting_weights,
    start_network,
)

PATCH = (16, 16, 16)
PLAIN = unet([4, 8])
RESIDUAL = unet([4, 8], blocks=[1, 1])
FOUR = ("t1n", "t1c", "t2w", "t2f")


def network(architecture=PLAIN, channels=4, classes=3, seed=0):
    torch.manual_seed(seed)
    names = (architecture[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    return get_network_from_plans(*names, channels, classes, deep_supervision=False).eval()


def source(model, modalities=None, **entries) -> StartingWeights:
    known = None if modalities is None else dataset_json(modalities) | entries
    return StartingWeights("their.pth", model.state_dict(), known)


def started(model, weights, modalities=FOUR, **options):
    channels = options.pop("channels", len(modalities))
    start = start_network(model, weights, dataset_json(modalities), (2, channels, *PATCH), **options)
    put_into(model, start.values)
    return start


@torch.no_grad()
@pytest.mark.parametrize("architecture", [PLAIN, RESIDUAL, mstkd_architecture(PATCH, first_features=4)])
def test_four_channels_that_show_the_same_are_one(architecture):
    """Repeated and divided: the sum over the channels is what the one channel gave."""
    theirs, ours = network(architecture, 1), network(architecture, seed=1)
    start = started(ours, source(theirs, ("t1n",)))
    x = torch.randn(1, 1, *PATCH)
    torch.testing.assert_close(ours(x.expand(1, 4, *PATCH)), theirs(x), rtol=1e-4, atol=1e-4)
    assert not start.left
    assert start.lines[1] == (
        "Input channels: the only one (t1n) repeated for t1n, t1c, t2w, t2f and divided by 4."
    )


@torch.no_grad()
def test_channels_go_by_name():
    theirs, ours = network(), network(channels=2, seed=1)
    start = started(ours, source(theirs, ("T2", "FLAIR", "t1n", "T1ce")), ("t1c", "t2w"))
    kernel = theirs.state_dict()["encoder.stages.0.0.convs.0.conv.weight"]
    assert torch.equal(ours.encoder.stages[0][0].convs[0].conv.weight, kernel[:, [3, 0]])
    assert start.lines[1] == "Input channels: t1c, t2w by name; t2f, t1n of the source not used."


@torch.no_grad()
def test_a_modality_that_the_source_lacks_starts_from_the_mean():
    theirs, ours = network(channels=2), network(channels=3, seed=1)
    start = started(ours, source(theirs, ("t1n", "t2w")), ("ADC", "t2w", "t1n"))
    kernel = theirs.encoder.stages[0][0].convs[0].conv.weight
    found = ours.encoder.stages[0][0].convs[0].conv.weight
    assert torch.equal(found[:, 1:], kernel[:, [1, 0]])
    torch.testing.assert_close(found[:, 0], kernel.mean(1))
    assert start.lines[1] == "Input channels: t2w, t1n by name; ADC from the mean of t1n, t2w."


def test_the_same_channels_without_names_stay_in_their_order():
    theirs, ours = network(), network(seed=1)
    start = started(ours, source(theirs))
    assert "in the order of the file, which names none" in start.lines[1]
    assert start.as_it_is, "nnU-Net's own loading does the same"


@torch.no_grad()
def test_a_cascades_further_channels_keep_their_own_kernels_where_theirs_are_others():
    theirs, ours = network(channels=4), network(channels=4 + 3, seed=1)
    own = ours.encoder.stages[0][0].convs[0].conv.weight[:, 4:].clone()
    start = started(ours, source(theirs, FOUR), channels=7)
    found = ours.encoder.stages[0][0].convs[0].conv.weight
    assert torch.equal(found[:, :4], theirs.encoder.stages[0][0].convs[0].conv.weight)
    assert torch.equal(found[:, 4:], own)
    assert "those of the previous stage are left as they are" in start.lines[1]


def test_what_a_source_must_tell():
    theirs = network(channels=2)
    with pytest.raises(MSTKDError, match=r"for CT, PET, and none of these is here \(t1n, t1c, t2w, t2f\)"):
        started(network(), source(theirs, ("CT", "PET")))
    with pytest.raises(MSTKDError, match=r"does not name its 2 input channels, and here are 4 \(t1n"):
        started(network(), source(theirs))


def test_heads_come_along_only_with_the_same_labels():
    theirs = network()
    same, other = network(seed=1), network(seed=1)
    start = started(same, source(theirs, FOUR))
    assert not start.left
    x = torch.randn(1, 4, *PATCH)
    assert torch.equal(same(x), theirs(x))
    start = started(other, source(theirs, FOUR, labels={"background": 0, "a": 1, "b": 2, "c": 3}))
    assert all(".seg_layers." in name for name in start.left)
    (line,) = [line for line in start.lines if line.startswith("Left")]
    heads = other.decoder.seg_layers
    share = sum(p.numel() for p in heads.parameters()) / sum(p.numel() for p in other.parameters())
    assert (
        line
        == f"Left as they were: {len(start.left)} tensors, {share:.1%} of the values: segmentation"
        + (" heads (other labels, or none known).")
    )
    with pytest.raises(MSTKDError, match=r"does not fit: encoder.* there, .* here; plan with the sizes"):
        started(network(unet([8, 8])), source(theirs, FOUR))
    with pytest.raises(MSTKDError, match="it is of another kind of network"):
        started(network(RESIDUAL), source(theirs, FOUR))


@torch.no_grad()
def test_the_conditioning_goes_by_name_too_and_is_zero_for_new_modalities():
    theirs, ours = condition_on_absence(network(), 4), condition_on_absence(network(channels=3), 3)
    torch.nn.init.normal_(theirs.conditioning.weight)
    started(ours, source(theirs, FOUR), ("t2f", "ADC", "t1n"))
    assert torch.equal(ours.conditioning.weight[..., [0, 2]], theirs.conditioning.weight[..., [3, 0]])
    assert not ours.conditioning.weight[..., 1].any()
    fresh = condition_on_absence(network(), 4)
    start = started(fresh, source(network(seed=1), FOUR))
    assert start.left == (CONDITIONING_WEIGHT,)


@torch.no_grad()
def test_what_is_lent_is_taken_between_the_same_modalities_only():
    def borrowing(modalities, seed=0):
        lenders = lenders_by_name(modalities)
        return borrow_features(
            network(channels=len(modalities), seed=seed), lenders, (1, len(modalities), *PATCH)
        )

    theirs = borrowing(FOUR)
    torch.nn.init.normal_(theirs.borrowing.mixing)
    ours = borrowing(FOUR, seed=1)
    assert started(ours, source(theirs, FOUR)).left == ()
    assert torch.equal(ours.borrowing.mixing, theirs.borrowing.mixing)
    others = borrowing((*FOUR[1:], FOUR[0]), seed=1)
    left = started(others, source(theirs, FOUR), (*FOUR[1:], FOUR[0])).left
    assert left
    assert all(name.startswith("borrowing.") for name in left)
    assert not others.borrowing.mixing.any()
    assert started(borrowing(FOUR), source(network(seed=1), FOUR)).left == tuple(
        name for name in theirs.state_dict() if name.startswith("borrowing.")
    )


# ---------------------------------------------------------------- nnssl


def from_file(file, model=None):
    model = model or network(RESIDUAL, seed=1)
    return model, started(model, read_starting_weights(file))


def assert_has_the_encoder(model):
    kernels = dict(pretrained_network().encoder.named_parameters())
    for name, value in model.encoder.named_parameters():
        if name == f"{STEM}.conv.weight".removeprefix("encoder."):
            expected = kernels[name].expand(-1, 4, -1, -1, -1) / 4
        else:
            expected = kernels[name]
        assert torch.equal(value, expected), name


def test_an_encoder_of_nnssl_and_a_decoder_of_ones_own(tmp_path):
    own = network(RESIDUAL, seed=1)
    model, start = from_file(write_checkpoint(tmp_path / "mae.pth"))
    assert_has_the_encoder(model)
    for name, value in model.decoder.named_parameters():
        if not name.startswith("encoder."):
            assert torch.equal(value, own.state_dict()[f"decoder.{name}"]), name
    total = sum(p.numel() for p in model.parameters())
    taken = sum(p.numel() for p in model.encoder.parameters())
    encoder = len(list(model.encoder.parameters()))
    assert start.lines[0].endswith(
        f"{encoder} of {len(list(model.parameters()))} tensors, {taken / total:.1%} of the network's values,"
        " are taken."
    )
    assert "(the encoder of a pre-trained network)" in start.lines[0]
    assert "the only one (not named) repeated for t1n, t1c, t2w, t2f and divided by 4" in start.lines[1]
    assert not start.as_it_is


def test_what_is_no_encoder_is_not_asked_for(tmp_path):
    weights = {f"{name}": tensor for name, tensor in encoder_alone(pretrained_network().state_dict()).items()}
    model, _ = from_file(write_checkpoint(tmp_path / "simclr.pth", weights))
    assert_has_the_encoder(model)


def test_copies_that_sparse_pre_training_left_untrained_are_not_taken(tmp_path):
    file = write_checkpoint(tmp_path / "s3d.pth", sparse(pretrained_network().state_dict()))
    model, start = from_file(file)
    assert_has_the_encoder(model)
    assert re.match(r"WARNING: \d+ tensors of the file have several names", start.lines[-1])


def test_keys_that_carry_another_prefix_and_plans_without_the_newest_key(tmp_path):
    weights = {f"backbone.{name}": t for name, t in pretrained_network().state_dict().items()}
    plan = {"key_to_encoder": "backbone.encoder.stages", "key_to_stem": "backbone.encoder.stem"}
    file = write_checkpoint(tmp_path / "other.pth", weights, **plan)
    content = torch.load(file, weights_only=True)
    del content["nnssl_adaptation_plan"]["key_to_lpe"]
    torch.save(content, file)
    model, _ = from_file(file)
    assert_has_the_encoder(model)


def test_a_transformer_and_another_residual_encoder_are_refused(tmp_path):
    weights = {
        "eva.blocks.0.attn.qkv.weight": torch.zeros(3, 1),
        "down_projection.proj.weight": torch.ones(1),
    }
    architecture = adaptation_plan()["architecture_plans"] | {"arch_class_name": "PrimusM"}
    plan = {"key_to_encoder": "eva", "key_to_stem": "down_projection", "architecture_plans": architecture}
    file = write_checkpoint(tmp_path / "primus.pth", weights, **plan)
    with pytest.raises(MSTKDError, match="is a pre-trained PrimusM, which has no stages of convolutions"):
        read_starting_weights(file)
    file = write_checkpoint(tmp_path / "mae.pth")
    with pytest.raises(MSTKDError, match=r"mae\.pth does not fit: it has no encoder\.stages\.2"):
        from_file(file, network(unet([4, 8, 8], blocks=[1, 1, 1])))
    with pytest.raises(MSTKDError, match="it is of another kind of network"):
        from_file(file, network(mstkd_architecture(PATCH, first_features=4)))


def test_the_name_res_enc_l_stands_for_the_published_encoder(tmp_path):
    """90,296,576 weights in the encoder with one channel (counted in nnssl's network)."""
    named = {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    patch = [160, 160, 160]
    plan = {"architecture_plans": named, "recommended_downstream_patchsize": patch}
    file = write_checkpoint(tmp_path / "large.pth", **plan)
    architecture, recommended = planned_architecture(file)
    with torch.device("meta"):
        model = network(architecture, 1)
    assert sum(p.numel() for p in model.encoder.parameters()) == 90_296_576
    assert recommended == (160, 160, 160)
