"""A step of the masking phase is tried before the first epoch, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loop import losses, train

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD, nnUNetTrainerMSTKDUNet
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.trainers import gradient_shares
from nnunetv2_mstkd.trainers.teaching import trainer as distilling


def batch_norms(plans: dict) -> None:
    for configuration in plans["configurations"].values():
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"


def steps_of(trainer) -> list[int]:
    """The epochs that the losses of this trainer's steps were computed for, kept up to date."""
    epochs: list[int] = []
    original = trainer.compute_losses
    trainer.compute_losses = lambda batch: epochs.append(trainer.current_epoch) or original(batch)
    return epochs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "change", "regions"),
    [(nnUNetTrainerMSTKD, None, True), (nnUNetTrainerMSTKDUNet, batch_norms, False)],
    ids=["instance norms, regions", "batch norms, labels"],
)
def test_the_training_is_the_one_without_it(make_trainer, monkeypatch, trainer_class, change, regions):
    settings = {"gradient_shares_every": 1}
    tried = make_trainer(trainer_class, results="a", regions=regions, settings=settings, change=change)
    epochs = steps_of(tried)
    train(tried)
    assert epochs == [2, 0, 0, 1, 1, 2, 2, 3, 3]
    monkeypatch.setattr(distilling, "rehearse", lambda *_: None)
    plain = make_trainer(trainer_class, results="b", regions=regions, settings=settings, change=change)
    train(plain)
    assert losses(tried) == losses(plain)
    assert tried.history.epochs == plain.history.epochs
    assert tried.bounds.scales == plain.bounds.scales
    for name, value in tried.network.state_dict().items():
        assert torch.equal(value, plain.network.state_dict()[name]), name
    logs = [next(Path(t.output_folder).glob("training_log_*.txt")).read_text() for t in (tried, plain)]
    assert logs[0].count("gradient shares") == logs[1].count("gradient shares") > 0


@pytest.mark.parametrize("settings", [{}, {"gradient_shares_every": 0}])
def test_it_measures_the_shares_of_the_gradient_where_the_training_does(make_trainer, monkeypatch, settings):
    measured, original = [], gradient_shares.gradient_shares
    monkeypatch.setattr(
        gradient_shares, "gradient_shares", lambda *a, **o: measured.append(1) or original(*a, **o)
    )
    train(make_trainer(nnUNetTrainerMSTKD, settings=settings), epochs=1)
    assert len(measured) == (0 if settings else 1)


def test_a_teacher_that_is_there_from_the_start_needs_none(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKDJoint)
    epochs = steps_of(trainer)
    train(trainer, epochs=1)
    assert epochs == [0, 0]


def test_too_little_memory_is_said_before_the_first_epoch(make_trainer, monkeypatch):
    trainer = make_trainer(nnUNetTrainerMSTKD)

    def compute_losses(batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines")

    trainer.compute_losses = compute_losses
    with pytest.raises(MSTKDError, match=r"begins with epoch 2, needs more .*allocate 2 GiB\.\); plan for"):
        trainer.on_train_start()
    assert trainer.current_epoch == 0
    assert trainer.teaching.frozen is None
    trainer.print_to_log_file("heard again")
    (log,) = Path(trainer.output_folder).glob("training_log_*.txt")
    assert "heard again" in log.read_text()
