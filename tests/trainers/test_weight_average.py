"""The setting ``weight_average``: an average is validated and exported, while the weights go on learning."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import pytest
import torch
from loop import losses, train
from torch import nn

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.weight_average import WeightAverage

SHORT = {
    "num_epochs": 3,
    "num_iterations_per_epoch": 2,
    "num_val_iterations_per_epoch": 1,
    "save_every": 1,
    "seed": 1,
}


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# ---------------------------------------------------------------- the average itself


class Shared(nn.Module):
    """A module under two names, as a U-Net's decoder holds its encoder; a buffer that is counted up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1, bias=False)
        self.again = self.first
        self.norm = nn.BatchNorm1d(1)


@torch.no_grad()
def test_is_the_average_by_hand():
    network, values = Shared(), [1.0, 5.0, -2.0, 4.0]
    network.first.weight.fill_(values[0])
    average, expected = WeightAverage(network, 0.3), values[0]
    for step, value in enumerate(values[1:], start=1):
        network.first.weight.fill_(value)
        network.norm.num_batches_tracked.add_(1)
        average.update()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert float(network.first.weight) == pytest.approx(expected)
        assert int(network.norm.num_batches_tracked) == 3
    assert float(network.first.weight) == values[-1]


@torch.no_grad()
def test_a_checkpoint_from_either_side_restores_both():
    network = Shared()
    average = WeightAverage(network, 0.9)
    network.first.weight.fill_(7)
    average.update()
    with average.applied():
        exported, state = weights(network), deepcopy(average.state_dict())
    other = Shared()
    other.load_state_dict(exported)
    again = WeightAverage(other, 0.9)
    again.load_state_dict(state)
    assert equal(weights(other), weights(network))
    assert again.steps == 1
    with again.applied():
        assert equal(weights(other), exported)


# ---------------------------------------------------------------- in trainers


@pytest.mark.parametrize("name", ["FullModality", "ModalityDropout", "MSTKD"])
def test_learns_as_without_it_and_exports_the_average(make_trainer, name):
    make = partial(make_trainer, getattr(methods, f"nnUNetTrainer{name}"))
    plain = train(make(settings=SHORT, results="plain"))
    averaged = train(make(settings=SHORT | {"weight_average": 0.9}, results="averaged"))
    assert losses(averaged) == losses(plain)
    ours, learnt = weights(unwrap(averaged.network)), weights(unwrap(plain.network))
    assert equal(ours, learnt)
    final = torch.load(f"{averaged.output_folder}/checkpoint_final.pth", weights_only=False)[
        "network_weights"
    ]
    with averaged.average.applied():
        assert equal(final, weights(unwrap(averaged.network)))
    assert not equal(final, learnt)


def test_validates_the_average(make_trainer, monkeypatch):
    settings = SHORT | {"weight_average": 0.9, "full_phase": 0}  # no checkpoint_best in a full phase
    trainer, seen = make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings), []
    validate = type(trainer).validation_step

    def look(self, batch):
        seen.append((self.average.in_place, weights(unwrap(self.network))))
        return validate(self, batch)

    monkeypatch.setattr(type(trainer), "validation_step", look)
    train(trainer, epochs=1)
    ((in_place, validated),) = seen
    assert in_place
    assert not trainer.average.in_place
    assert not equal(validated, weights(unwrap(trainer.network)))
    best = torch.load(f"{trainer.output_folder}/checkpoint_best.pth", weights_only=False)
    assert equal(best["network_weights"], validated)


@pytest.mark.parametrize("checkpoint", ["checkpoint_latest.pth", "checkpoint_best.pth"])
def test_a_continued_training_repeats_an_uninterrupted_one(make_trainer, checkpoint):
    settings = SHORT | {"weight_average": 0.9, "full_phase": 0}
    make = partial(make_trainer, methods.nnUNetTrainerModalityDropout, settings=settings)
    whole = train(make(results="whole"))
    train(make(results="stopped"), epochs=1)
    again = make(results="stopped")
    again.load_checkpoint(f"{again.output_folder}/{checkpoint}")
    train(again)
    assert losses(again) == losses(whole)
    final = [
        torch.load(f"{t.output_folder}/checkpoint_final.pth", weights_only=False)["network_weights"]
        for t in (whole, again)
    ]
    assert equal(*final)


def test_values_out_of_range_are_refused(make_trainer):
    with pytest.raises(MSTKDError, match="weight_average"):
        make_trainer(methods.nnUNetTrainerModalityDropout, settings={"weight_average": 1.0})
