import math
from pathlib import Path

import pytest
import torch
from loop import losses, train
from torch import nn

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.environment import GRADIENT_SHARES_VARIABLE
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.style import discriminator_loss_on_styles
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.methods.mstkd.official import nnUNetTrainerMSTKDOfficial
from nnunetv2_mstkd.methods.mstkd.sizes import mstkdnet_kwargs
from nnunetv2_mstkd.methods.mstkd.trainer import NETWORK_CLASS, nnUNetTrainerMSTKD
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint
from nnunetv2_mstkd.trainers.adversary import Adversary
from nnunetv2_mstkd.trainers.checkpoints import EXTRA_KEY, count_steps_on_cpu

EVERY_STEP = {"gradient_shares_every": 1}


def checkpoint_of(trainer, name):
    return torch.load(Path(trainer.output_folder) / f"checkpoint_{name}.pth", weights_only=False)


CUBE, SQUARE = (16, 16, 16), (16, 16)
TERMS = (
    "kl",
    "consistency",
    "content",
    "token_features",
    "attention",
    "gram",
    "adversarial",
    "discriminator",
)


@pytest.mark.parametrize(
    ("regions", "patch"),
    [
        (True, CUBE),
        pytest.param(False, CUBE, marks=pytest.mark.slow),
        pytest.param(True, SQUARE, marks=pytest.mark.slow),
    ],
)
def test_trains_on_stock_plans(make_trainer, regions, patch):
    trainer = train(make_trainer(nnUNetTrainerMSTKD, regions=regions, patch=patch, settings=EVERY_STEP))
    assert isinstance(trainer.network, MSTKDNet)
    assert all(math.isfinite(x) for x in losses(trainer))
    assert "segmentation/segmentation" in trainer.history.names()
    for name in TERMS:
        assert f"terms/{name}" in trainer.history.names()
    shares = trainer.history.epochs[2]
    assert shares["gradient share/kl"] >= 0
    assert -1 <= shares["gradient cosine/kl"] <= 1
    assert (Path(trainer.output_folder) / "distillation.png").is_file()


def test_teacher_is_a_frozen_copy_of_the_full_phase(make_trainer):
    trainer = train(make_trainer(nnUNetTrainerMSTKD), epochs=2)
    student = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    assert trainer.teaching.frozen is None
    train(trainer, epochs=2)
    teacher = trainer.teaching.frozen.network
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, student[key]), key
    assert any(not torch.equal(v, student[k]) for k, v in trainer.network.state_dict().items())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.network.parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint], ids=["warm_start", "joint"]
)
def test_continuing_gives_the_losses_of_the_uninterrupted_run(make_trainer, trainer_class):
    settings = {"save_every": 1}
    whole = train(make_trainer(trainer_class, results="a", settings=settings))
    train(make_trainer(trainer_class, results="b", settings=settings), epochs=3)
    again = make_trainer(trainer_class, results="b", settings=settings)
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    train(again)
    assert losses(again) == losses(whole)
    assert again.history.epochs == whole.history.epochs


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint])
def test_checkpoints_hold_the_student_as_network_weights(make_trainer, trainer_class):
    trainer = train(make_trainer(trainer_class, settings={"save_every": 1}), epochs=3)
    student = trainer.network.state_dict()
    latest = checkpoint_of(trainer, "latest")
    assert set(latest["network_weights"]) == set(student)
    for key, value in latest["network_weights"].items():
        assert torch.equal(value, student[key])
    assert set(latest[EXTRA_KEY]["teacher"]) == set(student)
    assert {"discriminator", "optimizer"} <= set(latest[EXTRA_KEY]["adversaries"]["discriminator"])
    train(trainer)
    final = checkpoint_of(trainer, "final")
    assert set(final["network_weights"]) == set(student)
    assert not {"teacher", "adversaries"} & set(final[EXTRA_KEY])


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint])
def test_going_on_from_a_finished_training_says_why_it_cannot(make_trainer, trainer_class):
    train(make_trainer(trainer_class))
    longer = make_trainer(trainer_class, settings={"num_epochs": 6})
    longer.load_checkpoint(f"{longer.output_folder}/checkpoint_final.pth")
    with pytest.raises(MSTKDError, match="no teacher"):
        train(longer)


def test_warm_start_without_a_full_phase_is_refused_before_training(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKD, settings={"full_phase": 0})
    with pytest.raises(MSTKDError, match="needs a full-modality phase"):
        trainer.initialize()


def test_unknown_term_in_the_settings_is_refused(make_trainer):
    with pytest.raises(MSTKDError, match=r"no term 'style_transfer'.* it has: segmentation, teacher"):
        make_trainer(nnUNetTrainerMSTKD, settings={"weights": {"style_transfer": 1}})


def test_a_term_of_weight_zero_is_neither_computed_nor_logged(make_trainer):
    off = {"weights": {"adversarial": 0, "gram": 0}}
    trainer = train(make_trainer(nnUNetTrainerMSTKD, settings=off))
    assert not trainer.adversaries
    assert not any("gram" in name or "adversarial" in name for name in trainer.history.names())


def test_joint_teacher_learns_too(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKDJoint)
    trainer.initialize()
    before = {k: v.clone() for k, v in trainer.teaching.network.state_dict().items()}
    train(trainer, epochs=1)
    assert any(not torch.equal(v, before[k]) for k, v in trainer.teaching.network.state_dict().items())


def test_a_joint_teacher_learns_from_the_first_epoch_whatever_the_plans_say(make_trainer):
    for trainer_class, settings in (
        (nnUNetTrainerMSTKD, {"teacher": "joint"}),
        (nnUNetTrainerMSTKDJoint, {"full_phase": 0.5}),
    ):
        assert make_trainer(trainer_class, settings=settings).phases.full_epochs == 0


def test_plans_of_another_preset_than_wanted_are_refused(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKDOfficial)
    configuration = trainer.configuration_manager.configuration
    kwargs = mstkdnet_kwargs(configuration["architecture"]["arch_kwargs"], CUBE)
    configuration["architecture"] |= {"network_class_name": NETWORK_CLASS, "arch_kwargs": kwargs}
    with pytest.raises(MSTKDError, match="preset 'nnunet', but 'official' is wanted"):
        trainer.initialize()


def test_without_a_segmentation_term_there_is_nothing_to_measure_against(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKD, settings={"weights": {"segmentation": 0}})
    with pytest.raises(MSTKDError, match="'segmentation' is 0"):
        trainer.initialize()


@pytest.mark.parametrize("teacher", ["joint", "shared"])
def test_a_teacher_that_would_never_learn_is_refused(make_trainer, teacher):
    settings = {"teacher": teacher, "weights": {"teacher_segmentation": 0}}
    trainer = make_trainer(nnUNetTrainerMSTKD, settings=settings)
    with pytest.raises(MSTKDError, match=f"the teacher '{teacher}' would never learn"):
        trainer.initialize()


def test_a_batch_that_is_not_finite_does_not_poison_the_discriminator():
    adversary = Adversary(StyleDiscriminator(3, (4, 4, 4), base_features=4), discriminator_loss_on_styles)
    before = {k: v.clone() for k, v in adversary.discriminator.state_dict().items()}
    style = torch.randn(2, 3, 4, 4, 4)
    assert not torch.isfinite(adversary.step(student=style * float("inf"), teacher=style))
    assert all(torch.equal(v, before[k]) for k, v in adversary.discriminator.state_dict().items())
    assert torch.isfinite(adversary.step(student=style, teacher=style))
    assert any(not torch.equal(v, before[k]) for k, v in adversary.discriminator.state_dict().items())


@pytest.mark.slow
def test_asking_for_a_log_of_the_shares_does_not_change_the_training(make_trainer, monkeypatch):
    quiet = train(make_trainer(nnUNetTrainerMSTKD, results="quiet"))
    monkeypatch.setenv(GRADIENT_SHARES_VARIABLE, "1")
    loud = train(make_trainer(nnUNetTrainerMSTKD, results="loud"))
    assert losses(loud) == losses(quiet)
    assert loud.bounds.scales == quiet.bounds.scales
    assert "gradient share/kl" in loud.history.names()
    assert "gradient share/kl" not in quiet.history.names()


@pytest.mark.slow
@pytest.mark.parametrize("regions", [True, False])
def test_official_preset_objective_and_optimiser(make_trainer, regions):
    trainer = make_trainer(
        nnUNetTrainerMSTKDOfficial, regions=regions, settings={"num_epochs": 2, "num_iterations_per_epoch": 1}
    )
    trainer.disable_checkpointing = True  # gigabytes, which take longer than the training
    train(trainer)
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert not trainer.enable_deep_supervision
    assert trainer.network.preset == "official"
    assert len(trainer.network.encoder.strides) == 4, "the published four stages on a plan of three"
    log = Path(trainer.log_file).read_text()
    assert ("WARNING: plain labels" in log) == (not regions)
    assert trainer.logger.get_value("lrs", None) == pytest.approx([1e-4 * 0.5**0.9, 0.0])
    assert all(math.isfinite(x) for x in losses(trainer))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_adams_counts_stay_on_the_cpu_when_a_checkpoint_was_read_onto_the_gpu():
    parameter = nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0] = {name: value.cuda() for name, value in state["state"][0].items()}
    optimizer.load_state_dict(state)
    count_steps_on_cpu(optimizer)
    assert optimizer.state[parameter]["step"].device.type == "cpu"
    assert optimizer.state[parameter]["exp_avg"].device.type == "cuda"


def test_adams_counts_are_kept():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    count_steps_on_cpu(optimizer)  # before the first step there are none
    parameter.sum().backward()
    optimizer.step()
    count_steps_on_cpu(optimizer)
    assert optimizer.state[parameter]["step"] == 1
