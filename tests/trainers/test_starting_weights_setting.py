"""The settings ``init`` and ``train_only``: trainings that start from, or leave alone, a finished model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from loop import train
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from stock_prediction import predicted_by_nnunet
from tiny_dataset import MODALITIES, PATCH, dataset_json, plans

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.architectures.conditioning import CONDITIONING_WEIGHT
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap

SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
KERNEL = "encoder.stages.0.0.convs.0.conv.weight"


def finished_model(folder: Path, modalities=MODALITIES, *, fold=0, seed=3, patch=PATCH, **entries) -> Path:
    """A model folder of stock nnU-Net with random weights."""
    planned, described = plans(modalities, patch=patch), dataset_json(modalities) | entries
    architecture = planned["configurations"]["tiny"]["architecture"]
    torch.manual_seed(seed)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(modalities),
        3,
    )
    arguments = {"plans": planned, "configuration": "tiny", "fold": fold, "dataset_json": described}
    content = {
        "network_weights": network.state_dict(), "init_args": arguments, "trainer_name": "nnUNetTrainer"
    }  # fmt: skip
    model = folder / "nnUNetTrainer__nnUNetPlans__tiny"
    (model / f"fold_{fold}").mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps(described))
    (model / "plans.json").write_text(json.dumps(planned))
    torch.save(content, model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


def weights_of(model: Path, fold=0):
    return torch.load(model / f"fold_{fold}" / "checkpoint_final.pth", weights_only=False)["network_weights"]


def lines_of(trainer) -> str:
    (log,) = Path(trainer.output_folder).glob("training_log_*.txt")
    return log.read_text()


@pytest.mark.parametrize("name", ["FullModality", "ModalityDropout"])
def test_a_training_starts_from_a_model_of_other_channels_and_the_log_says_how(make_trainer, tmp_path, name):
    model = finished_model(tmp_path, ("t2w", "t1n"))
    settings = SHORT | {"init": str(model), "weight_average": 0.5}
    trainer = make_trainer(getattr(methods, f"nnUNetTrainer{name}"), settings=settings)
    trainer.initialize()
    theirs, ours = weights_of(model), unwrap(trainer.network).state_dict()
    assert torch.equal(ours[KERNEL][:, [2, 0]], theirs[KERNEL])
    torch.testing.assert_close(ours[KERNEL][:, 1], theirs[KERNEL].mean(1))
    assert torch.equal(ours["decoder.seg_layers.0.weight"], theirs["decoder.seg_layers.0.weight"])
    log = lines_of(trainer)
    assert "Input channels: t1n, t2w by name; t1c, t2f from the mean of t2w, t1n." in log
    assert "100.0% of the network's values, are taken." in log
    assert torch.equal(trainer.average.kept[KERNEL], ours[KERNEL])


@pytest.mark.slow
def test_a_joint_teacher_starts_from_them_too(make_trainer, tmp_path):
    model = finished_model(tmp_path)
    settings = SHORT | {"init": str(model), "teacher": "joint"}
    trainer = make_trainer(methods.nnUNetTrainerMSTKDUNet, settings=settings)
    trainer.initialize()
    for network in (trainer.network, trainer.teaching.network):
        assert torch.equal(unwrap(network).state_dict()[KERNEL], weights_of(model)[KERNEL])


@pytest.mark.slow
def test_init_comes_before_the_weights_of_a_teacher(make_trainer, tmp_path):
    init, teacher = finished_model(tmp_path / "init", seed=4), finished_model(tmp_path / "teacher")
    settings = SHORT | {"init": str(init), "teacher": str(teacher)}
    trainer = make_trainer(methods.nnUNetTrainerMSTKDUNet, settings=settings)
    trainer.initialize()
    assert torch.equal(unwrap(trainer.network).state_dict()[KERNEL], weights_of(init)[KERNEL])


def test_the_fold_that_is_trained_or_the_only_one(make_trainer, tmp_path):
    model = finished_model(tmp_path, fold=3)
    trainer = make_trainer(methods.nnUNetTrainerModalityDropout, settings=SHORT | {"init": str(model)})
    trainer.initialize()
    assert "WARNING: these weights are of fold 3, which may have learnt from cases that validate fold 0" in (
        lines_of(trainer)
    )
    with pytest.raises(MSTKDError, match=r"no fold_0/checkpoint_final\.pth; it has fold_3.*--init-fold"):
        make_trainer(
            methods.nnUNetTrainerModalityDropout, settings=SHORT | {"init": str(model), "init_fold": 0}
        ).initialize()


@pytest.mark.slow
def test_a_training_that_goes_on_does_not_need_them_any_more(make_trainer, tmp_path):
    model = finished_model(tmp_path)
    settings = SHORT | {"init": str(model)}
    train(make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings))
    model.rename(tmp_path / "gone")
    trainer = make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings)
    trainer.initialize()
    with pytest.raises(MSTKDError, match="starting weights not found"):
        trainer.on_train_start()
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.on_train_start()
    with pytest.raises(MSTKDError, match="starting weights not found"):
        make_trainer(
            methods.nnUNetTrainerModalityDropout, settings=settings, results="elsewhere"
        ).initialize()


# ---------------------------------------------------------------- the adapter

ADAPTER = {"conditioning": "absence", "train_only": "conditioning", "initial_lr": 0.1}


@pytest.mark.parametrize(
    ("teacher", "residual"),
    [
        (None, False),
        *(pytest.param(*kind, marks=pytest.mark.slow) for kind in ((None, True), ("shared", False))),
    ],
)
def test_an_adapter_leaves_complete_input_exactly_as_it_was(
    make_trainer, tmp_path, monkeypatch, teacher, residual
):
    monkeypatch.setattr("tiny_dataset.RESIDUAL", residual)
    model = finished_model(tmp_path)
    settings = SHORT | ADAPTER | {"init": str(model)} | ({"teacher": teacher} if teacher else {})
    name = "nnUNetTrainerMSTKDUNet" if teacher else "nnUNetTrainerModalityDropout"
    trainer = train(make_trainer(getattr(methods, name), settings=settings))
    theirs, ours = weights_of(model), unwrap(trainer.network).state_dict()
    assert {name for name in ours if name not in theirs} == {CONDITIONING_WEIGHT}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert ours[CONDITIONING_WEIGHT].any()
    assert "Only the conditioning is trained:" in lines_of(trainer)

    x = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    absent = torch.cat((torch.zeros_like(x[:2]), x[2:]))
    stock = SimpleNamespace(output_folder_base=str(model))
    for shown, same in ((x, True), (absent, False)):
        expected, found = (predicted_by_nnunet(owner, shown, monkeypatch) for owner in (stock, trainer))
        assert torch.equal(found, expected) == same, "at tolerance 0"


@pytest.mark.slow
def test_frozen_norms_keep_their_statistics(make_trainer, tmp_path, monkeypatch):
    def batch_norms(content):
        kwargs = content["configurations"]["tiny"]["architecture"]["arch_kwargs"]
        kwargs["norm_op"] = "torch.nn.modules.batchnorm.BatchNorm3d"

    own = plans

    def with_batch_norms(*args, **kwargs):
        content = own(*args, **kwargs)
        batch_norms(content)
        return content

    monkeypatch.setattr("test_starting_weights_setting.plans", with_batch_norms)
    model = finished_model(tmp_path)
    settings = SHORT | ADAPTER | {"init": str(model)}
    trainer = train(make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings, change=batch_norms))
    theirs, ours = weights_of(model), unwrap(trainer.network).state_dict()
    assert any("running_var" in name for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditioning": "none"}, "needs the setting conditioning 'absence'"),
        ({"init": None}, "nnUNetv2_mstkd plan --init MODEL_FOLDER"),
        ({"full_phase": 0.5}, "a full phase of 1 epochs; set full_phase to 0"),
    ],
)
def test_adapters_that_could_learn_nothing(make_trainer, tmp_path, changes, message):
    settings = SHORT | ADAPTER | {"init": str(finished_model(tmp_path))} | changes
    trainer = make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings)
    with pytest.raises(MSTKDError, match=message):
        trainer.initialize()


def test_an_adapter_fits_its_own_data_only(make_trainer, tmp_path):
    labels = {"background": 0, "WT": [1, 2, 3], "TC": [1, 2], "ET": [3]}
    model = finished_model(tmp_path, labels=labels)
    settings = SHORT | ADAPTER | {"init": str(model)}
    with pytest.raises(MSTKDError, match=r"model to adapt .* does not fit: its labels are"):
        make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings).initialize()
    file = tmp_path / "alone.pth"
    (model / "fold_0" / "checkpoint_final.pth").rename(file)
    with pytest.raises(MSTKDError, match=r"would freeze \d+ tensors that .*alone\.pth does not have"):
        make_trainer(
            methods.nnUNetTrainerModalityDropout, settings=settings | {"init": str(file)}
        ).initialize()


@pytest.mark.slow
def test_a_network_with_an_encoder_per_modality_starts_from_the_same_modalities_only(make_trainer, tmp_path):
    first = make_trainer(methods.nnUNetTrainerRFNet, settings=SHORT | {"base_features": 2})
    first.initialize()
    file = tmp_path / "rfnet.pth"
    first.save_checkpoint(str(file))
    settings = SHORT | {"base_features": 2, "init": str(file), "seed": 9}
    second = make_trainer(methods.nnUNetTrainerRFNet, settings=settings, results="second")
    second.initialize()
    theirs, ours = (unwrap(t.network).state_dict() for t in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    content = torch.load(file, weights_only=False)
    content["init_args"]["dataset_json"] = dataset_json(MODALITIES[::-1])
    torch.save(content, file)
    with pytest.raises(MSTKDError, match="none can be made of the others; start from a model of the same"):
        make_trainer(methods.nnUNetTrainerRFNet, settings=settings, results="third").initialize()
