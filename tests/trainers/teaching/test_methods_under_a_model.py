"""Methods whose terms look inside both networks, under a finished model that has no such inside."""

from __future__ import annotations

import math

import pytest
from loop import losses, train
from test_teaching import finished_models, log_of, student, unet_model  # noqa: F401

from nnunetv2_mstkd.methods import nnUNetTrainerACN, nnUNetTrainerSMUNet
from nnunetv2_mstkd.trainers.base import unwrap

OFF = {
    nnUNetTrainerACN: {"knowledge_transfer", "adversarial_features"},
    nnUNetTrainerSMUNet: {"content", "style", "adversarial"},
}
LEFT = {nnUNetTrainerACN: {"adversarial_entropy"}, nnUNetTrainerSMUNet: set()}


@pytest.mark.parametrize("trainer_class", OFF, ids=lambda t: t.__name__)
def test_what_it_cannot_show_is_off_and_the_rest_goes_on(make_trainer, unet_model, trainer_class):  # noqa: F811
    trainer = train(student(make_trainer, unet_model, trainer_class, init_from_teacher=False))
    found = {name.removeprefix("terms/") for name in trainer.history.names() if name.startswith("terms/")}
    assert LEFT[trainer_class] <= found
    assert not OFF[trainer_class] & found
    assert all(math.isfinite(loss) for loss in losses(trainer))
    assert all(f"Term '{name}' is off" in log_of(trainer) for name in OFF[trainer_class])
    trainer.is_ddp = True  # where other losses of weight 0 are computed
    assert not any(trainer.counts(name) for name in OFF[trainer_class])


def test_what_only_an_absent_term_would_train_is_frozen(make_trainer, unet_model):  # noqa: F811
    """DDP waits for every parameter that asks for a gradient."""
    trainer = student(make_trainer, unet_model, nnUNetTrainerACN, init_from_teacher=False)
    trainer.initialize()
    assert not any(p.requires_grad for p in unwrap(trainer.network).regressor.parameters())
