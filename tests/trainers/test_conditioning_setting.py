"""The setting ``conditioning``: networks that every norm is told of what is absent, trained and predicted."""

from __future__ import annotations

import pytest
import torch
from loop import losses, train
from stock_prediction import predicted_by_nnunet

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap

SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1}
PATCH = (16, 16, 16)


@pytest.mark.parametrize("name", ["ConditionedDropout", "ModalityDropout", "MSTKD", "MSTKDUNet"])
def test_learns_what_absence_means_and_stock_nnunet_predicts(make_trainer, monkeypatch, name):
    settings = {**SHORT, "full_phase": 0.5, "conditioning": "absence", "seed": 1}
    trainer = train(make_trainer(getattr(methods, f"nnUNetTrainer{name}"), settings=settings))
    assert len(losses(trainer)) == 2
    network = unwrap(trainer.network).eval()
    assert network.conditioning.weight.any()

    x = torch.randn(4, *PATCH, generator=torch.Generator().manual_seed(2))
    x[1:3] = 0
    found = predicted_by_nnunet(trainer, x, monkeypatch)
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad():
        expected = network(x[None])[0]
        torch.nn.init.zeros_(network.conditioning.weight)
        unconditioned = network(x[None])[0]
    # nnU-Net keeps logits in 16 bits.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
    assert not torch.equal(expected, unconditioned)


def test_conditioned_dropout_is_modality_dropout_with_two_settings(make_trainer):
    settings = {**SHORT, "num_epochs": 4, "seed": 1}
    changed = {"full_phase": 0.25, "conditioning": "absence"}
    ours, same = (
        train(make_trainer(trainer, settings=settings | more, results=name))
        for trainer, more, name in (
            (methods.nnUNetTrainerConditionedDropout, {}, "ours"),
            (methods.nnUNetTrainerModalityDropout, changed, "same"),
        )
    )
    assert losses(ours) == losses(same)
    weights, others = (unwrap(trainer.network).state_dict() for trainer in (ours, same))
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert weights["conditioning.weight"].any()
    without = make_trainer(
        methods.nnUNetTrainerConditionedDropout, settings=settings | {"conditioning": "none"}, results="none"
    )
    without.initialize()
    assert not hasattr(unwrap(without.network), "conditioning")


def test_nothing_changes_during_the_full_phase(make_trainer):
    """No gradient reaches the conditioning before anything is absent."""
    settings = {**SHORT, "num_epochs": 4, "full_phase": 0.75, "seed": 1}
    plain, conditioned = (
        train(
            make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings | more, results=name),
            epochs=2,
        )
        for name, more in (("plain", {}), ("conditioned", {"conditioning": "absence"}))
    )
    assert losses(plain) == losses(conditioned)
    assert not unwrap(conditioned.network).conditioning.weight.any()


def test_batch_norms_under_several_processes_are_refused(make_trainer):
    """nnU-Net replaces them by others, which know nothing of what is absent."""

    def batch_norms(content):
        kwargs = content["configurations"]["tiny"]["architecture"]["arch_kwargs"]
        kwargs["norm_op"] = "torch.nn.BatchNorm3d"

    trainer = make_trainer(
        methods.nnUNetTrainerModalityDropout, settings={"conditioning": "absence"}, change=batch_norms
    )
    trainer.initialize()
    trainer.is_ddp = True
    with pytest.raises(MSTKDError, match="lost on batch norms with -num_gpus"):
        trainer.build_beside()


@pytest.mark.parametrize("name", ["nnUNetTrainerRFNet", "nnUNetTrainerFullModality"])
def test_others_do_not_read_it(make_trainer, name):
    with pytest.raises(MSTKDError, match=f"{name} does not read the setting 'conditioning'"):
        make_trainer(getattr(methods, name), settings={"conditioning": "absence"})
