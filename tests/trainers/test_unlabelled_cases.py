"""Training cases without a segmentation: in the distillation under masking, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from loop import losses, train
from tiny_dataset import dataset_json as described
from tiny_dataset import plans

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.commands import train_checks
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.data_loader import LABELLED_KEY
from nnunetv2_mstkd.trainers.step import MaskedBatch

EXTRA = {"mstkd": {"unlabelled": ["case_1", "case_2"]}}
SEGMENTATIONS = "nothing is learnt here but segmentations."
SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1}


def started(make_trainer, name="MSTKDUNet", extra=EXTRA, **settings):
    trainer = make_trainer(getattr(methods, f"nnUNetTrainer{name}"), settings=SHORT | settings, extra=extra)
    trainer.initialize()
    trainer.on_train_start()
    return trainer


def masking(trainer):
    trainer.current_epoch = trainer.phases.full_epochs
    trainer.on_train_epoch_start()
    return trainer


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_none_in_the_full_phase_and_half_a_batch_under_masking(make_trainer):
    trainer = started(make_trainer)
    trainer.on_train_epoch_start()
    assert all(set(next(trainer.dataloader_train)["keys"]) == {"case_0"} for _ in range(4))
    masking(trainer)
    places = []
    for _ in range(8):
        batch = next(trainer.dataloader_train)
        keys, labelled = batch["keys"], batch[LABELLED_KEY].tolist()
        assert labelled == [key == "case_0" for key in keys]
        assert sum(labelled) == 1
        places.append(labelled.index(True))
    assert set(places) == {0, 1}, "either place: nnU-Net oversamples the foreground in the last ones"
    line = "Cases without a segmentation: 2 train the distillation."
    assert log_of(trainer).count(line) == 1


def test_the_segmentation_counts_where_there_is_one_and_the_distillation_everywhere(make_trainer):
    trainer = masking(started(make_trainer))
    batch = next(trainer.dataloader_train)
    moved = MaskedBatch.on_device(batch, trainer.device, whole=False)
    (place,) = moved.segmented.tolist()
    assert trainer.dataset_json["mstkd"]["unlabelled"].count(batch["keys"][1 - place])
    trainer.teaching.start_epoch()
    terms = trainer.compute_losses(moved).terms
    logits = trainer.network(moved.masked)
    expected = trainer.loss([level[[place]] for level in logits], [level[[place]] for level in moved.target])
    torch.testing.assert_close(terms["segmentation"], expected)
    # Whatever the placeholder says.
    for level in moved.target:
        level[1 - place] = 1
    again = trainer.compute_losses(moved).terms
    torch.testing.assert_close(again["segmentation"], expected)
    moved.data[1 - place] *= 2 * torch.rand_like(moved.data[1 - place])
    other = trainer.compute_losses(moved).terms
    torch.testing.assert_close(other["segmentation"], expected)
    assert not torch.isclose(other["kl"], terms["kl"])


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("ModalityDropout", {}, SEGMENTATIONS),
        ("MSTKDUNet", {"teacher": "shared"}, "a teacher 'shared' learns from segmentations itself"),
        pytest.param("FullModality", {}, SEGMENTATIONS, marks=pytest.mark.slow),
        pytest.param("MSTKD_PlainStudent", {}, SEGMENTATIONS, marks=pytest.mark.slow),
        pytest.param("MSTKDUNet", {"teacher": "joint"}, "a teacher 'joint' learns", marks=pytest.mark.slow),
        pytest.param("MSTKDUNet", {"unlabelled_share": 0}, "unlabelled_share 0 of a", marks=pytest.mark.slow),
    ],
)
def test_others_leave_them_out_and_say_why(make_trainer, name, settings, reason):
    trainer = started(make_trainer, name, **settings)
    training, validation = trainer.do_split()
    assert (training, validation) == (["case_0"], ["case_3"])
    assert f"Cases without a segmentation: 0 train the distillation; 2 are left out: {reason}" in log_of(
        trainer
    )


def test_never_in_validation_whatever_the_split_says(make_trainer):
    extra = {"mstkd": {"unlabelled": ["case_0"]}}
    trainer = make_trainer(methods.nnUNetTrainerModalityDropout, settings=SHORT, extra=extra)
    trainer.initialize()
    trainer.fold = "all"
    training, validation = trainer.do_split()
    assert sorted(training) == sorted(validation) == ["case_1", "case_2", "case_3"]


def test_images_of_a_validated_patient_are_left_out(make_trainer):
    record = {"unlabelled": ["case_1", "case_2"], "patients": {"case_1": "p", "case_3": "p"}}
    trainer = started(make_trainer, extra={"mstkd": record})
    assert trainer.do_split()[0] == ["case_0", "case_2"]
    assert "1 train the distillation; 1 are left out: their patients are validated here." in log_of(trainer)


@pytest.mark.slow
def test_a_training_with_them_goes_on_exactly(make_trainer):
    settings = {"num_epochs": 4, "seed": 3}
    whole = train(make(make_trainer, "whole", settings))
    train(make(make_trainer, "parts", settings), epochs=3)
    rest = make(make_trainer, "parts", settings)
    rest.load_checkpoint(str(Path(rest.output_folder) / "checkpoint_latest.pth"))
    assert losses(train(rest))[-1] == losses(whole)[-1]


def make(make_trainer, results, settings):
    trainer = make_trainer(
        methods.nnUNetTrainerMSTKDUNet,
        settings=SHORT | settings | {"save_every": 1},
        extra=EXTRA,
        results=results,
    )
    trainer.initialize()
    return trainer


def test_stock_trainers_are_kept_from_learning_a_background(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    folder = tmp_path / "Dataset007_Tiny"
    folder.mkdir()
    content = plans() | {"configurations": {"3d_fullres": plans()["configurations"]["tiny"]}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(described() | EXTRA))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_3"]}]))
    stock = ["7", "3d_fullres", "-device", "cpu"]
    train_checks.check_training([*stock[:2], "0", *stock[2:]])
    for fold in ("all", "1"):
        with pytest.raises(MSTKDError, match=rf"nnUNetTrainer would learn in fold {fold} that 2 cases"):
            train_checks.check_training([*stock[:2], fold, *stock[2:]])
    train_checks.check_training([*stock[:2], "all", *stock[2:], "-tr", "nnUNetTrainerModalityDropout"])


def test_batches_without_them_are_drawn_as_ever(make_trainer):
    """In a full phase nothing shows that there are cases without a segmentation."""
    drawn = []
    for extra in (EXTRA, {"mstkd": {"unlabelled": ["case_2", "case_1"]}}):
        trainer = started(make_trainer, extra=extra, seed=5)
        np.random.seed(0)
        drawn.append(torch.stack([next(trainer.dataloader_train)["data"] for _ in range(2)]))
    assert torch.equal(*drawn)
