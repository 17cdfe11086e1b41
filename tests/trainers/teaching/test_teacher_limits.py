"""What a teacher must not do: replace a trainer's own, run code, be read twice, count where unwanted."""

from __future__ import annotations

import pytest
import torch
from loop import train
from malicious import MakesFolder
from test_teaching import finished_models, student, unet_model  # noqa: F401  fixtures

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerFullModality
from nnunetv2_mstkd.methods.mstkd.official import nnUNetTrainerMSTKDOfficial
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD, nnUNetTrainerMSTKDUNet
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint, nnUNetTrainerMSTKDShared
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.teaching import finished_model
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY


@pytest.mark.parametrize(
    ("trainer_class", "own"),
    [
        (nnUNetTrainerMSTKDShared, "shared"),
        (nnUNetTrainerMSTKDJoint, "joint"),
        (nnUNetTrainerMSTKDOfficial, "joint"),
    ],
)
@pytest.mark.parametrize("other", ["warm_start", "a model"])
def test_plans_with_another_teacher_do_not_turn_a_trainer_into_another(
    make_trainer, tmp_path, trainer_class, own, other
):
    other = str(tmp_path) if other == "a model" else other
    settings = {"teacher": other, "full_phase": 0.5}
    message = f"{trainer_class.__name__} has the teacher '{own}', but these plans name teacher '{other}'"
    with pytest.raises(MSTKDError, match=message):
        make_trainer(trainer_class, settings=settings).initialize()
    assert make_trainer(trainer_class, settings={"teacher": own}).teacher == own


def test_a_teachers_checkpoint_runs_nothing(make_trainer, unet_model, tmp_path):  # noqa: F811
    file, victim = unet_model / "fold_0" / "checkpoint_final.pth", tmp_path / "victim"
    content = torch.load(file, weights_only=False)
    torch.save(content | {"more": MakesFolder(victim)}, file)
    with pytest.raises(MSTKDError, match=r"checkpoint_final\.pth holds posix\.mkdir"):
        student(make_trainer, unet_model).initialize()
    assert not victim.exists()


def test_a_teacher_is_read_once(make_trainer, unet_model, monkeypatch):  # noqa: F811
    load, calls = finished_model.load_nnunet_predictor, []
    monkeypatch.setattr(
        finished_model, "load_nnunet_predictor", lambda *a, **k: calls.append(a) or load(*a, **k)
    )
    trainer = train(student(make_trainer, unet_model, nnUNetTrainerMSTKDUNet))
    assert trainer.num_epochs == 2
    assert len(calls) == 1


def test_a_training_goes_on_with_the_teacher_that_it_began_with(make_trainer):
    settings = {"num_epochs": 3, "save_every": 1, "full_phase": 0.4}
    began = make_trainer(nnUNetTrainerMSTKD, settings=settings)
    train(began, epochs=2)
    again = make_trainer(nnUNetTrainerMSTKD, settings=settings | {"teacher": "nested"})
    with pytest.raises(MSTKDError, match=r"began with another teacher \(warm_start, now nested\)"):
        again.load_checkpoint(f"{began.output_folder}/checkpoint_latest.pth")


@pytest.mark.parametrize("settings", [None, {"full_phase": 0.5}, {"teacher": "joint"}])
def test_without_deep_supervision_all_that_learns_gets_a_gradient(make_trainer, settings):
    """DDP waits for every parameter that asks for one; nnU-Net's networks have heads that nobody uses."""
    trainer_class = nnUNetTrainerFullModality if settings is None else nnUNetTrainerMSTKDUNet
    trainer = make_trainer(trainer_class, settings={"enable_deep_supervision": False, **(settings or {})})
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    joint = settings == {"teacher": "joint"}
    for network in (trainer.network, *([trainer.teaching.network] if joint else [])):
        without = [n for n, p in unwrap(network).named_parameters() if p.requires_grad and p.grad is None]
        assert without == []


@pytest.mark.parametrize("choice", ["use", "skip"])
def test_a_finished_teacher_on_incomplete_cases(make_trainer, unet_model, choice):  # noqa: F811
    """It sees what the case has, and zeros; whether that counts is a setting."""
    trainer = student(make_trainer, unet_model, nnUNetTrainerMSTKDUNet, teacher_on_incomplete=choice)
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    for sample, channel in enumerate((1, 0)):
        batch[BATCH_AVAILABLE_KEY][sample, channel] = False
        batch["data"][sample, channel] = 0
    seen = []
    trainer.teaching.frozen.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = trainer.train_step(batch)["terms"]
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], batch["data"])
    assert ("kl" in terms) == (choice == "use")
    assert ("discriminator" in terms) == (choice == "use")


@pytest.mark.parametrize(
    "trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint, nnUNetTrainerMSTKDShared]
)
def test_incomplete_cases_may_be_left_to_the_segmentation(make_trainer, trainer_class):
    trainer = make_trainer(trainer_class, settings={"teacher_on_incomplete": "skip"})
    trainer.initialize()
    trainer.on_train_start()
    trainer.current_epoch = trainer.phases.full_epochs
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    assert batch[BATCH_AVAILABLE_KEY].all(), "the tiny cases have everything"
    assert "kl" in trainer.train_step(batch)["terms"]
    batch[BATCH_AVAILABLE_KEY][0, 1] = False
    assert {"kl", "discriminator"} <= set(trainer.train_step(batch)["terms"])
    batch[BATCH_AVAILABLE_KEY][1, 0] = False
    only = {"segmentation"} | (set() if trainer_class.teacher == "warm_start" else {"teacher_segmentation"})
    assert set(trainer.train_step(batch)["terms"]) == only
