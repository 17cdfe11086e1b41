from pathlib import Path

import pytest
import torch
from loop import losses, train

from benchmarks.plans import unet
from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerFullModality, nnUNetTrainerModalityDropout
from nnunetv2_mstkd.modalities import format_subset
from nnunetv2_mstkd.trainers.checkpoints import EXTRA_KEY


@pytest.mark.parametrize(
    ("regions", "patch"), [(True, (16, 16, 16)), (False, (16, 16, 16)), (True, (16, 16))]
)
def test_trains_regions_and_labels_in_3d_and_2d(make_trainer, regions, patch):
    trainer = train(make_trainer(nnUNetTrainerModalityDropout, regions=regions, patch=patch))
    assert len(losses(trainer)) == 4
    assert all(torch.isfinite(torch.tensor(losses(trainer))))


def test_continuing_gives_the_losses_of_the_uninterrupted_run(make_trainer, tmp_path):
    settings = {"full_phase": 0.5, "save_every": 1}
    whole = train(make_trainer(nnUNetTrainerModalityDropout, results="a", settings=settings))
    train(make_trainer(nnUNetTrainerModalityDropout, results="b", settings=settings), epochs=3)
    again = make_trainer(nnUNetTrainerModalityDropout, results="b", settings=settings)
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    assert again.current_epoch == 3
    train(again)
    assert losses(again) == losses(whole)
    assert again.history.epochs == whole.history.epochs


def test_masking_starts_at_the_learning_rate_of_the_settings(make_trainer):
    trainer = make_trainer(nnUNetTrainerModalityDropout, settings={"full_phase": 0.5, "lr_restart": 0.25})
    logger = train(trainer).logger
    assert logger.get_value("lrs", 0) == trainer.initial_lr
    assert logger.get_value("lrs", trainer.phases.full_epochs) == 0.25 * trainer.initial_lr


def test_the_full_phase_shows_everything_and_saves_no_best(make_trainer, monkeypatch):
    trainer = make_trainer(nnUNetTrainerModalityDropout, settings={"full_phase": 0.5})
    seen = []
    compute = trainer.compute_losses
    monkeypatch.setattr(trainer, "compute_losses", lambda batch: seen.append(batch.mask) or compute(batch))
    saved = []
    save = trainer.save_checkpoint
    monkeypatch.setattr(
        trainer, "save_checkpoint", lambda name: saved.append((trainer.current_epoch, name)) or save(name)
    )
    train(trainer)
    assert all(mask.all() for mask in seen[:4])
    assert not all(mask.all() for mask in seen[4:])
    best = [epoch for epoch, name in saved if name.endswith("checkpoint_best.pth")]
    assert best, "the masking phase must save a best checkpoint"
    assert min(best) == 2


def test_validation_masks_by_rotation_and_logs_mean_and_full(make_trainer, monkeypatch):
    trainer = make_trainer(nnUNetTrainerModalityDropout, settings={"num_val_iterations_per_epoch": 15})
    trainer.on_train_start()
    shown = []
    forward = trainer.network.forward
    monkeypatch.setattr(
        trainer.network,
        "forward",
        lambda x: shown.append(x.detach().abs().amax(dim=(0, 2, 3, 4)) > 0) or forward(x),
    )
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(15)]
    names = [format_subset(o["parts"][0][0], trainer.modalities) for o in outputs]
    assert len(set(names)) == 15
    for name, present in zip(names, shown, strict=True):
        assert "+".join(m for m, p in zip(trainer.modalities, present, strict=True) if p) == name
    trainer.on_validation_epoch_end(outputs)
    values = trainer.history.epochs[0]
    assert values["pseudo Dice/mean over subsets"] == trainer.logger.get_value("mean_fg_dice", -1)
    assert 0 <= values["pseudo Dice/all modalities"] <= 1


@pytest.mark.parametrize(
    ("name", "settings", "epochs"),
    [
        ("ModalityDropout", {}, 4),
        ("ModalityDropout", {"full_phase": 0}, 0),
        ("ConditionedDropout", {}, 2),
        ("ConditionedDropout", {"train_only": "conditioning"}, 0),
        ("ModalityDropout", {"train_only": "conditioning"}, 0),
        ("MSTKDUNet", {"teacher": "shared"}, 0),
        ("RFNet", {}, 0),
    ],
)
def test_the_full_phase_that_is_written_is_the_one_in_force(make_trainer, name, settings, epochs):
    """``debug.json`` holds the trainer's attributes: reports read there how it trained."""
    trainer = make_trainer(getattr(methods, f"nnUNetTrainer{name}"), settings={"num_epochs": 8, **settings})
    assert trainer.phases.full_epochs == epochs
    assert trainer.full_phase * 8 == epochs


def test_settings_reach_the_trainer_and_unknown_ones_are_refused(make_trainer):
    trainer = make_trainer(nnUNetTrainerModalityDropout, settings={"initial_lr": 0.5, "optimizer": "adamw"})
    assert trainer.initial_lr == 0.5
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    for unread in ("learning_rate", "teacher"):
        with pytest.raises(MSTKDError, match=rf"does not read the setting '{unread}'.*initial_lr"):
            make_trainer(nnUNetTrainerModalityDropout, settings={unread: "joint"})
    with pytest.raises(MSTKDError, match=r"'full_phase'.*1.5.*from 0 to below 1"):
        make_trainer(nnUNetTrainerModalityDropout, settings={"full_phase": 1.5})


def test_checkpoints_are_nnunets_with_one_extra_entry(make_trainer):
    trainer = train(make_trainer(nnUNetTrainerModalityDropout, settings={"num_epochs": 1}))
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert set(checkpoint["network_weights"]) == set(trainer.network.state_dict())
    assert checkpoint["trainer_name"] == "nnUNetTrainerModalityDropout"
    assert set(checkpoint[EXTRA_KEY]) == {"history", "full_epochs"}


def test_a_failing_save_leaves_the_earlier_checkpoint(make_trainer, monkeypatch):
    trainer = make_trainer(nnUNetTrainerModalityDropout)
    trainer.initialize()
    target = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(target)
    before = torch.load(target, weights_only=False)["current_epoch"]
    trainer.current_epoch = 2

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(MSTKDError, match="No space left"):
        trainer.save_checkpoint(target)
    monkeypatch.undo()
    assert torch.load(target, weights_only=False)["current_epoch"] == before
    assert [p.name for p in Path(trainer.output_folder).glob("*checkpoint*")] == ["checkpoint_latest.pth"]


def two_stages(plans: dict) -> None:
    plans["configurations"]["tiny"]["architecture"] = unet([4, 8])


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerModalityDropout, nnUNetTrainerFullModality])
def test_two_stages_train_on_their_single_output(make_trainer, trainer_class):
    """nnU-Net's weights of deep supervision are 0 / 0 there."""
    trainer = train(make_trainer(trainer_class, change=two_stages), epochs=1)
    assert all(torch.isfinite(torch.tensor(losses(trainer))))
    assert not trainer.enable_deep_supervision
    assert "without deep supervision" in Path(trainer.log_file).read_text()


def test_continuing_with_fewer_epochs_than_the_full_phase_is_refused(make_trainer):
    settings = {"full_phase": 0.75, "save_every": 1}
    train(make_trainer(nnUNetTrainerModalityDropout, settings=settings), epochs=2)
    shorter = make_trainer(nnUNetTrainerModalityDropout, settings=settings | {"num_epochs": 3})
    with pytest.raises(MSTKDError, match="has 3 epochs, but these plans train for 3: nothing would ever be"):
        shorter.load_checkpoint(f"{shorter.output_folder}/checkpoint_latest.pth")


def test_the_full_modality_baseline_supervises_a_single_head_plainly(make_trainer):
    """Plans of the official preset say so; the loss would be two thirds of what the other trainers see."""
    trainer = make_trainer(nnUNetTrainerFullModality, settings={"enable_deep_supervision": False})
    trainer.initialize()
    assert not hasattr(trainer.loss, "weight_factors")


def test_full_modality_baseline_differs_from_stock_only_in_what_it_reads(make_trainer):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = make_trainer(nnUNetTrainerFullModality)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (4, 2)
    stock = make_trainer(nnUNetTrainer)
    trainer.initialize()
    stock.initialize()
    for name in ("initial_lr", "weight_decay", "enable_deep_supervision", "oversample_foreground_percent"):
        assert getattr(trainer, name) == getattr(stock, name)
    for ours, theirs in ((trainer.optimizer, stock.optimizer), (trainer.lr_scheduler, stock.lr_scheduler)):
        assert type(ours) is type(theirs)
    assert trainer.optimizer.defaults == stock.optimizer.defaults
    assert repr(trainer.network) == repr(stock.network)
    assert repr(trainer.loss) == repr(stock.loss)
    trainer = train(make_trainer(nnUNetTrainerFullModality))
    assert len(losses(trainer)) == 4


def test_validation_shows_a_case_only_what_it_has_and_never_nothing(make_trainer):
    incomplete = {"case_3": ["t1n", "t1c", "t2w"]}
    trainer = make_trainer(nnUNetTrainerModalityDropout, extra={"mstkd": {"incomplete_cases": incomplete}})
    trainer.initialize()
    _, validation = trainer.get_dataloaders()
    whole = next(validation)
    mixed = {**whole, "modality_available": torch.tensor([[False, False, False, True], [True] * 4])}
    seen = []
    trainer.network.register_forward_pre_hook(
        lambda _, inputs: seen.extend(inputs[0].ne(0).flatten(2).any(2).tolist())
    )
    trainer.on_validation_epoch_start()
    for batch in [whole] * 15:
        assert [frozenset({"t2f"})] == [subset for subset, _ in trainer.validation_step(batch)["parts"]]
    assert seen == [[False, False, False, True]] * 30
    trainer.on_validation_epoch_start()
    for _ in range(15):
        subset = trainer.rotation.subset(0, trainer._validation_batch)
        shown = {s for s, _ in trainer.validation_step(mixed)["parts"]}
        assert shown == {subset, frozenset({"t2f"})}
