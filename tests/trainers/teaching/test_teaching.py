"""Teachers beside the warm start: a finished model, the network itself; students of nnU-Net's own kind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from loop import losses, train
from torch import nn

from nnunetv2_mstkd.architectures.borrowing import borrow_features
from nnunetv2_mstkd.architectures.conditioning import condition_on_absence
from nnunetv2_mstkd.architectures.lenders import lenders_by_name
from nnunetv2_mstkd.architectures.matching import start_from
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerFullModality
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD, nnUNetTrainerMSTKDUNet
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDFrozenTeacher, nnUNetTrainerMSTKDShared
from nnunetv2_mstkd.trainers.checkpoints import EXTRA_KEY
from nnunetv2_mstkd.trainers.step import MaskedBatch

SHORT = {"num_epochs": 2, "num_iterations_per_epoch": 1}
ON_TOKENS = {"token_features", "attention"}
INSIDE = {"content", "gram", "adversarial"}


def finished(make_trainer, trainer_class, **kwargs) -> Path:
    """A finished model's folder, as its training left it."""
    kwargs["settings"] = SHORT | {"seed": 3} | kwargs.get("settings", {})
    return Path(train(make_trainer(trainer_class, results="teacher", **kwargs)).output_folder_base)


def student(
    make_trainer, teacher: Path, trainer_class=nnUNetTrainerMSTKDFrozenTeacher, results="results", **settings
):
    settings = SHORT | {"teacher": str(teacher)} | settings
    return make_trainer(trainer_class, results=results, settings=settings)


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


@pytest.fixture(scope="module")
def finished_models(tmp_path_factory) -> Path:
    """Models that were trained once, to be copied by the tests."""
    return tmp_path_factory.mktemp("finished")


def copy_of(make_trainer, models: Path, tmp_path: Path, trainer_class) -> Path:
    kept = models / f"{trainer_class.__name__}__nnUNetPlans__tiny"
    if not kept.exists():
        shutil.copytree(finished(make_trainer, trainer_class), kept)
    return Path(shutil.copytree(kept, tmp_path / "copy" / kept.name))


@pytest.fixture
def mstkd_model(make_trainer, finished_models, tmp_path) -> Path:
    return copy_of(make_trainer, finished_models, tmp_path, nnUNetTrainerMSTKD)


@pytest.fixture
def unet_model(make_trainer, finished_models, tmp_path) -> Path:
    return copy_of(make_trainer, finished_models, tmp_path, nnUNetTrainerFullModality)


def weights(model: Path) -> dict:
    return torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]


@pytest.mark.slow
def test_a_finished_run_of_ours_teaches_and_starts_the_student(make_trainer, mstkd_model):
    trainer = student(make_trainer, mstkd_model)
    trainer.initialize()
    for name, tensor in trainer.network.state_dict().items():
        assert torch.equal(tensor, weights(mstkd_model)[name]), name
    train(trainer)
    assert trainer.phases.full_epochs == 0
    teacher = trainer.teaching.frozen.network
    assert not teacher.training
    assert all(torch.equal(v, weights(mstkd_model)[k]) for k, v in teacher.state_dict().items())
    ours = {id(p) for p in teacher.parameters()}
    assert not ours & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {f"terms/{name}" for name in ON_TOKENS | INSIDE | {"kl", "consistency"}} <= set(
        trainer.history.names()
    )
    assert "100% of its values" in log_of(trainer)
    final = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert set(final["network_weights"]) == set(trainer.network.state_dict())
    assert "teacher" not in final[EXTRA_KEY]


def test_a_stock_model_teaches_mstkdnet_by_its_logits(make_trainer, unet_model):
    trainer = train(student(make_trainer, unet_model))
    assert {"terms/kl", "terms/consistency"} <= set(trainer.history.names())
    assert not {f"terms/{name}" for name in ON_TOKENS | INSIDE} & set(trainer.history.names())
    assert not trainer.adversaries
    stored = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    settings = stored["configurations"]["tiny"]["mstkd"]
    assert settings["weights"] == dict.fromkeys(ON_TOKENS | INSIDE, 0.0)
    assert "the teacher's network shows no attention" in settings["terms_off"]["attention"]
    assert settings["teacher"] == str(unet_model)
    assert "Term 'attention' is off" in log_of(trainer)
    assert "nnUNetTrainerMSTKDUNet" in log_of(trainer), "hint at the student that would fit"


@pytest.mark.parametrize("residual", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stock_model_teaches_a_network_of_its_own_kind(make_trainer, residual, monkeypatch):
    if residual:
        monkeypatch.setattr("tiny_dataset.RESIDUAL", True)
    model = finished(make_trainer, nnUNetTrainerFullModality)
    trainer = student(make_trainer, model, nnUNetTrainerMSTKDUNet)
    trainer.initialize()
    assert all(torch.equal(v, weights(model)[k]) for k, v in trainer.network.state_dict().items())
    train(trainer)
    assert {f"terms/{name}" for name in INSIDE | {"kl", "consistency"}} <= set(trainer.history.names())
    assert not {f"terms/{name}" for name in ON_TOKENS} & set(trainer.history.names())
    assert all(math.isfinite(x) for x in losses(trainer))
    # Stock nnU-Net loads it: the names of the weights are its own.
    assert list(trainer.network.state_dict()) == list(weights(model))
    assert isinstance(trainer.optimizer, torch.optim.SGD)


def test_the_student_may_start_from_scratch(make_trainer, mstkd_model):
    trainer = student(make_trainer, mstkd_model, init_from_teacher=False)
    trainer.initialize()
    name = "encoder.stages.0.conv.weight"
    assert not torch.equal(trainer.network.state_dict()[name], weights(mstkd_model)[name])


def test_channels_are_brought_into_the_teachers_order(make_trainer, unet_model):
    """A teacher trained on (t2w, t1n, t2f, t1c) sees exactly that; so does a student with its weights."""
    order = [2, 0, 3, 1]  # the student's channel of each of the teacher's
    edit(
        unet_model / "dataset.json",
        lambda d: d.update(channel_names={"0": "t2w", "1": "t1n", "2": "FLAIR", "3": "T1ce"}),
    )
    trainer = student(make_trainer, unet_model, nnUNetTrainerMSTKDUNet)
    trainer.initialize()
    assert trainer.teaching.order == tuple(order)
    assert "t2w, t1n, t2f, t1c; they are permuted" in log_of(trainer)
    x = torch.randn(2, 4, 16, 16, 16)
    expected = trainer.teaching.frozen.network(x[:, order])
    batch = MaskedBatch(x, torch.ones(2, 4), x, (True, True))
    torch.testing.assert_close(trainer.teaching.teacher_taps(batch, True).logits, expected)
    trainer.network.decoder.deep_supervision = False
    torch.testing.assert_close(trainer.network.eval()(x), expected)


def change_plans(**values):
    return lambda plans: plans["configurations"]["tiny"].update(values)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("dataset.json", lambda d: d["channel_names"].update({"3": "adc"}), "modalities are.*adc.*here.*t2f"),
        ("dataset.json", lambda d: d["labels"].update({"WT": [1, 2]}), r"labels are.*\[1, 2\].*\[1, 2, 3\]"),
        ("dataset.json", lambda d: d.update(regions_class_order=[1, 2, 3]), "regions_class_order"),
        ("plans.json", change_plans(spacing=[1.0, 1.0, 2.5]), r"spacing.*2\.5.*here"),
        (
            "plans.json",
            change_plans(normalization_schemes=["ZScoreNormalization"] * 3 + ["NoNormalization"]),
            "normalisation of t2f is NoNorm.*here ZScore",
        ),
        ("plans.json", change_plans(use_mask_for_norm=[True, False, True, True]), "normalisation of t1c"),
        ("plans.json", lambda p: p.update(transpose_forward=[2, 0, 1]), r"axis order is \[2, 0, 1\]"),
        ("plans.json", change_plans(preprocessor_name="Other"), "preprocessor is Other.*here DefaultPre"),
        ("plans.json", change_plans(previous_stage="3d_lowres"), "previous stage is 3d_lowres.*here None"),
    ],
)
def test_a_teacher_of_other_data_is_refused_before_training(make_trainer, unet_model, file, change, message):
    edit(unet_model / file, change)
    with pytest.raises(MSTKDError, match=message):
        student(make_trainer, unet_model).initialize()


def test_a_patch_that_the_teacher_cannot_take_is_refused(make_trainer, unet_model):
    trainer = make_trainer(
        nnUNetTrainerMSTKDFrozenTeacher, settings=SHORT | {"teacher": str(unet_model)}, patch=(18, 16, 16)
    )
    with pytest.raises(MSTKDError, match=r"cannot take this patch of 18 16 16 voxels; its own is \[16"):
        trainer.initialize()


def test_what_is_no_model_or_no_fold_is_refused(make_trainer, unet_model, tmp_path):
    with pytest.raises(MSTKDError, match="warm_strat"):
        make_trainer(nnUNetTrainerMSTKD, settings={"teacher": "warm_strat"})
    with pytest.raises(MSTKDError, match="plan --teacher MODEL_FOLDER"):
        make_trainer(nnUNetTrainerMSTKDFrozenTeacher).initialize()
    with pytest.raises(MSTKDError, match=r"model folder .* not found; put it back"):
        student(make_trainer, tmp_path / "nowhere").initialize()
    with pytest.raises(MSTKDError, match=r"fold_4/checkpoint_final\.pth; it has fold_0"):
        student(make_trainer, unet_model, teacher_fold=4).initialize()
    mstkdnet = make_trainer(nnUNetTrainerMSTKDUNet)
    architecture = mstkdnet.configuration_manager.configuration["architecture"]
    architecture["network_class_name"] = "nnunetv2_mstkd.methods.mstkd.network.MSTKDNet"
    with pytest.raises(MSTKDError, match="own network, but that of nnUNetPlans is MSTKDNet"):
        mstkdnet.initialize()


@pytest.mark.slow
def test_continuing_asks_for_the_same_teacher(make_trainer, mstkd_model):
    settings = {"save_every": 1, "num_epochs": 3}
    whole = train(student(make_trainer, mstkd_model, **settings))
    settings |= {"results": "b"}
    partial = student(make_trainer, mstkd_model, **settings)
    train(partial, epochs=1)
    latest = f"{partial.output_folder}/checkpoint_latest.pth"
    assert set(torch.load(latest, weights_only=False)[EXTRA_KEY]["teacher"]) == {"digest"}
    again = student(make_trainer, mstkd_model, **settings)
    again.load_checkpoint(latest)
    kept = Path(shutil.copy(latest, Path(latest).with_name("kept.pth")))  # the end removes the latest
    assert losses(train(again)) == losses(whole)
    file = mstkd_model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["encoder.stages.0.conv.bias"] += 1
    torch.save(checkpoint, file)
    other = student(make_trainer, mstkd_model, **settings)
    with pytest.raises(MSTKDError, match="not the one that this training began with"):
        other.load_checkpoint(str(kept))


def test_a_finished_training_can_be_validated_without_its_teacher(make_trainer, mstkd_model):
    trainer = train(student(make_trainer, mstkd_model))
    mstkd_model.rename(mstkd_model.with_name("moved"))
    again = student(make_trainer, mstkd_model, num_epochs=3)
    again.load_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
    assert "can only validate" in log_of(again)
    with pytest.raises(MSTKDError, match=r"model folder .* not found; put it back"):
        train(again)


def test_a_shared_network_distils_into_itself_with_the_gradients_of_both_patches(make_trainer):
    """The two backward passes of a step add up to that of both losses at once."""
    trainer = make_trainer(nnUNetTrainerMSTKDShared, settings={"gradient_shares_every": 0})
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    for module in trainer.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    raw = next(trainer.dataloader_train)
    batch = MaskedBatch.on_device(raw, trainer.device, whole=False)
    result = trainer.compute_losses(batch)
    trainer.backward(result.total)
    stepwise = {n: p.grad.clone() for n, p in trainer.network.named_parameters() if p.grad is not None}
    assert result.done > -10
    assert "teacher_segmentation" in result.terms

    trainer.network.zero_grad()
    both = [trainer.network(x, return_taps=True) for x in (batch.masked, batch.data)]
    student_taps, teacher_taps = both
    at_once = trainer.objective(
        student=student_taps,
        teacher=teacher_taps,
        target=batch.target,
        epoch=0,
        num_epochs=trainer.num_epochs,
        style_discriminator=trainer.adversaries["discriminator"].discriminator,
        train_teacher=True,
    )
    at_once.total.backward()
    torch.testing.assert_close(result.total + result.done, at_once.total)
    expected = {n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}
    assert stepwise.keys() == expected.keys()
    for name, gradient in stepwise.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_a_shared_network_trains_and_keeps_no_second_one(make_trainer):
    trainer = train(make_trainer(nnUNetTrainerMSTKDShared, settings={"save_every": 1}))
    assert trainer.phases.full_epochs == 0
    assert all(math.isfinite(x) for x in losses(trainer))
    assert "segmentation/teacher_segmentation" in set(trainer.history.names())


def test_weights_of_other_shapes_stay_where_they_are():
    ours, theirs = (
        nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 3, 1)),
        nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 5, 1)),
    )
    moved = start_from(ours, theirs, (1, 0), (1, 2, 4, 4, 4))
    assert moved.tensors == ("0.weight", "0.bias")
    assert (moved.of, moved.share) == (4, 12 / 27)
    torch.testing.assert_close(ours[0].weight, theirs[0].weight[:, [1, 0]])


def between_three(borrows: bool = False) -> nn.Module:
    layers = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Conv3d(4, 2, 1))
    network = nn.ModuleDict({"layers": layers})
    network.forward = lambda x: layers(x)
    if borrows:
        borrow_features(network, lenders_by_name(("a", "b", "c")), (2, 3, 6, 6, 6))
        nn.init.normal_(network.borrowing.mixing)
    condition_on_absence(network, 3)
    nn.init.normal_(network.conditioning.weight)
    return network


def test_what_has_a_place_per_modality_follows_the_order():
    """A student told of an absent modality does what the teacher does that is told of the same one."""
    order, shape = [2, 0, 1], (2, 3, 6, 6, 6)
    ours, theirs = between_three(), between_three()
    assert start_from(ours, theirs, order, shape).share == 1
    x = torch.randn(4, *shape[1:])
    for absent in range(3):
        x[absent, absent] = 0
    torch.testing.assert_close(ours(x), theirs(x[:, order]))

    ours, theirs = between_three(borrows=True), between_three(borrows=True)
    before = ours.borrowing.mixing.clone()
    assert not any("borrowing" in name for name in start_from(ours, theirs, order, shape).tensors)
    assert torch.equal(ours.borrowing.mixing, before), "between other pairs"
    assert start_from(ours, theirs, [0, 1, 2], shape).share == 1
    torch.testing.assert_close(ours(x), theirs(x))
