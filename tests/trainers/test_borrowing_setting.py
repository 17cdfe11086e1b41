"""The setting ``borrowing``: networks that borrow features of absent modalities, trained and predicted."""

from __future__ import annotations

import pytest
import torch
from loop import losses, train
from stock_prediction import predicted_by_nnunet

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.architectures.borrowing import borrow_features
from nnunetv2_mstkd.architectures.conditioning import CONDITIONING_WEIGHT
from nnunetv2_mstkd.architectures.lenders import lenders_by_name
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.lending import learn_to_lend

SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1}
PATCH = (16, 16, 16)
MODALITIES = ("t1n", "t1c", "t2w", "t2f")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ModalityDropout", {"lenders": {"flair": ["t1n"]}, "weight_average": 0.9}),
        ("MSTKD", {}),
        ("MSTKDUNet", {"conditioning": "absence"}),
    ],
)
def test_learns_to_borrow_and_stock_nnunet_predicts(make_trainer, monkeypatch, name, more):
    settings = {**SHORT, "full_phase": 0.5, "borrowing": "stem", "seed": 1, **more}
    trainer = train(make_trainer(getattr(methods, f"nnUNetTrainer{name}"), settings=settings))
    assert len(losses(trainer)) == 2
    assert all(value > 0 for value in trainer.history.series("terms/expression")[1])
    network = unwrap(trainer.network).eval()
    assert network.borrowing.mixing.any()
    stored = trainer.plans_manager.plans["configurations"]["tiny"]["mstkd"]
    assert stored["modalities"] == list(MODALITIES)
    assert stored["lenders"]["t2f"] == (["t1n"] if "lenders" in more else ["t2w", "t1c", "t1n"])

    x = torch.randn(4, *PATCH, generator=torch.Generator().manual_seed(2))
    x[1:3] = 0
    found = predicted_by_nnunet(trainer, x, monkeypatch)
    trainer.set_deep_supervision_enabled(False)
    with trainer._exported(), torch.no_grad():
        expected = network(x[None])[0]
        torch.nn.init.zeros_(network.borrowing.mixing)
        without = network(x[None])[0]
    # nnU-Net keeps logits in 16 bits.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
    assert not torch.equal(expected, without)


@pytest.mark.slow
def test_a_stopped_training_goes_on_exactly(make_trainer):
    settings = {**SHORT, "borrowing": "stem", "seed": 1, "save_every": 1}
    make = methods.nnUNetTrainerModalityDropout
    whole = train(make_trainer(make, settings=settings, results="whole"))
    train(make_trainer(make, settings=settings, results="stopped"), epochs=1)
    again = make_trainer(make, settings=settings, results="stopped")
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    train(again)
    assert losses(again) == losses(whole)
    expected = unwrap(whole.network).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in unwrap(again.network).state_dict().items())


def lending():
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"first": torch.nn.Conv3d(4, 6, 3, padding=1)})
    network.forward = lambda x: network["first"](x)
    borrow_features(network, lenders_by_name(MODALITIES), (2, 4, 8, 8, 8))
    return network.borrowing


def test_what_is_lent_learns_though_nothing_borrows_yet():
    """The mean over the pairs that the cases have, of samples as they are before any masking."""
    parts, x = lending(), torch.randn(2, 4, 8, 8, 8)
    x[0, 1:3] = 0  # one pair and its reverse
    x[1, 2] = 0  # three pairs and their reverses
    loss = learn_to_lend(parts, x, lambda term: term.backward())
    assert not loss.requires_grad
    gradient = parts.weight.grad.flatten(1).any(1).tolist()
    # t2w is in neither sample.
    assert gradient == [2 not in pair for pair in parts.pairs]
    assert parts.mixing.grad is None
    each = []
    for (m, k), (own, lent) in zip(parts.pairs, parts.expressions(x), strict=True):
        for sample in range(2):
            if x[sample, m].any() and x[sample, k].any():
                p, q = own[sample].softmax(0), lent[sample].softmax(0)
                each.append((p * (p / q).log()).sum(0).mean())
    assert len(each) == 2 + 6
    torch.testing.assert_close(loss, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_it_gets_less_and_single_modalities_have_none():
    parts = lending()
    x = torch.randn(2, 1, 8, 8, 8).expand(-1, 4, -1, -1, -1).contiguous()  # all show the same
    optimizer = torch.optim.Adam([parts.weight, parts.gain, parts.bias], 0.05)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        found.append(float(learn_to_lend(parts, x, lambda term: term.backward())))
        optimizer.step()
    assert found[-1] < 0.5 * found[0]
    x[:, 1:] = 0
    assert learn_to_lend(parts, x, lambda term: term.backward()) == 0


@pytest.mark.parametrize("name", ["nnUNetTrainerRFNet", "nnUNetTrainerFullModality"])
def test_others_do_not_read_it(make_trainer, name):
    with pytest.raises(MSTKDError, match=f"{name} does not read the setting 'borrowing'"):
        make_trainer(getattr(methods, name), settings={"borrowing": "stem"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"borrowing": "stem", "lenders": {"pet": ["t1n"]}}, "unknown modality 'pet'"),
        ({"lenders": {"t1n": ["t1c"]}}, "have lenders for t1n, but their setting 'borrowing' is 'none'"),
    ],
)
def test_lenders_that_cannot_be(make_trainer, settings, message):
    trainer = make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings)
    with pytest.raises(MSTKDError, match=message):
        trainer.initialize()


def test_an_adapter_keeps_what_its_model_lends(make_trainer):
    borrowing = {**SHORT, "borrowing": "stem", "seed": 1}
    model = train(make_trainer(methods.nnUNetTrainerModalityDropout, settings=borrowing, results="model"))
    theirs = unwrap(model.network).state_dict()
    adapter = {
        **SHORT, "init": model.output_folder_base, "conditioning": "absence", "train_only": "conditioning"
    }  # fmt: skip
    without = make_trainer(methods.nnUNetTrainerModalityDropout, settings=adapter, results="without")
    with pytest.raises(MSTKDError, match=r"would leave out the features that .* set borrowing to 'stem'"):
        without.initialize()
    adapter["borrowing"] = "stem"
    adapted = train(make_trainer(methods.nnUNetTrainerModalityDropout, settings=adapter, results="adapted"))
    ours = unwrap(adapted.network).state_dict()
    assert theirs["borrowing.mixing"].any()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert ours[CONDITIONING_WEIGHT].any()
