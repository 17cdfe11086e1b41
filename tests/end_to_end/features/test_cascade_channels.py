"""Masking never touches a cascade's one-hot channels: at the level of the network's input."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY

CHANNELS, ONE_HOT = 4, 3


def as_second_stage(plans: dict) -> None:
    second = plans["configurations"]["tiny"]
    plans["configurations"]["first"] = {**second, "next_stage": "tiny"}
    plans["configurations"]["tiny"] = {**second, "previous_stage": "first"}


def batch() -> dict:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, ONE_HOT + 1, (2, 16, 16, 16), generator=draw)
    one_hot = torch.nn.functional.one_hot(labels, ONE_HOT + 1).movedim(-1, 1)[:, 1:].float()
    image = torch.randn(2, CHANNELS, 16, 16, 16, generator=draw)
    target = torch.randint(0, 2, (2, 3, 16, 16, 16), generator=draw).float()
    return {
        "data": torch.cat((image, one_hot), dim=1),
        "target": [target, target[..., ::2, ::2, ::2]],
        MASK_KEY: torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]]).float(),
        BATCH_AVAILABLE_KEY: torch.ones(2, CHANNELS, dtype=torch.bool),
    }


@pytest.mark.parametrize(
    "trainer_class", [nnUNetTrainerModalityDropout, nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint]
)
def test_the_one_hot_channels_reach_the_network_bit_for_bit(make_trainer, trainer_class):
    trainer = make_trainer(trainer_class, change=as_second_stage)
    trainer.initialize()
    assert trainer.num_input_channels == CHANNELS + ONE_HOT
    trainer.current_epoch = trainer.phases.full_epochs  # the masking phase begins
    trainer.on_train_epoch_start()
    given, seen = batch(), []
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    trainer.train_step(given)
    (student,) = seen
    assert torch.equal(student[:, CHANNELS:], given["data"][:, CHANNELS:])
    absent = ~given[MASK_KEY].bool()
    assert not student[:, :CHANNELS][absent].any()
    assert torch.equal(student[:, :CHANNELS][~absent], given["data"][:, :CHANNELS][~absent])


def test_nor_in_validation(make_trainer):
    trainer = make_trainer(nnUNetTrainerModalityDropout, change=as_second_stage)
    trainer.initialize()
    given, seen = batch(), []
    trainer.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step({**given, "target": [t.clone() for t in given["target"]]})
    assert torch.equal(seen[0][:, CHANNELS:], given["data"][:, CHANNELS:])
    shown = trainer.rotation.subset(0, 0)
    for channel, modality in enumerate(trainer.modalities):
        assert seen[0][:, channel].any() == (modality in shown)
