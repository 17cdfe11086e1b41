from pathlib import Path

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods import METHODS, known_settings
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.settings import parse_settings


def test_nothing_given():
    assert parse_settings(None, {}) == parse_settings({}, {}) == {}
    assert parse_settings({"seed": None}, known_settings()) == {}


def test_what_is_given_comes_back():
    given = {"num_epochs": 5, "full_phase": 0, "sampler": "weights", "subset_weights": {"t1c": 1}}
    assert parse_settings(given, known_settings()) == given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 5}, "unknown setting 'epochs'.*known: num_epochs"),
        ({"num_epochs": 0}, "'num_epochs'.*is 0.*whole number of at least 1"),
        ({"num_epochs": 2.5}, "'num_epochs'"),
        ({"num_epochs": True}, "'num_epochs'"),
        ({"full_phase": 1}, "'full_phase'"),
        ({"full_phase": -0.1}, "'full_phase'"),
        ({"initial_lr": "fast"}, "'initial_lr'"),
        ({"sampler": "lottery"}, "one of uniform, bernoulli, by_count, weights, difficulty"),
        ({"keep_probability": 0}, "'keep_probability'"),
        ({"initial_lr": float("inf")}, "'initial_lr'"),
        ({"initial_lr": 10**400}, "'initial_lr'.*finite number above 0"),
        ({"weight_decay": float("nan")}, "'weight_decay'"),
        ({"subset_weights": {"t1c": float("inf")}}, "'subset_weights'"),
        ({"weights": {"kl": float("nan")}}, "'weights'"),
        ({"keep_probability": {}}, "'keep_probability'"),
        ({"teacher": ""}, "'teacher'.*warm_start"),
        ({"keep_probability": {"t1c": 1.5}}, "'keep_probability'"),
        ({"subset_weights": [1]}, "'subset_weights'"),
        ({"teacher": "wise"}, "'teacher'.*warm_start"),
        ({"weights": {"kl": -1}}, "'weights'"),
        ({"seed": -1}, "'seed'"),
        ({"enable_deep_supervision": 1}, "true or false"),
        ({"single_weight": 0}, "'single_weight'"),
        ({"reference_dice": {"t1c": 80}}, "'reference_dice'.*numbers from 0 to 1"),
        ("num_epochs=3", "must be a dict"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(MSTKDError, match=message):
        parse_settings(settings, known_settings())


def test_what_a_trainer_does_not_read_is_refused_with_what_it_reads():
    read = nnUNetTrainerModalityDropout.settings_read()
    with pytest.raises(MSTKDError, match=r"TrainerX does not read the setting 'teacher'.* reads: num_epochs"):
        parse_settings({"teacher": "joint"}, read, reader="TrainerX")


WITHOUT_EFFECT = [
    ({"keep_probability": 0.7}, "'sampler' is 'uniform'; set 'sampler' to 'bernoulli', or leave"),
    ({"sampler": "bernoulli", "subset_weights": {"t1c": 2}}, "'sampler' is 'bernoulli'; set .* to 'weights'"),
    ({"sampler": "weights", "single_weight": 2}, "set 'sampler' to one of uniform, difficulty, or"),
    ({"reference_dice": {"t1c": 0.8}}, "set 'sampler' to 'difficulty'"),
    ({"hidden_share": 0.3}, "'full_phase_task' is 'all_modalities'; set .* to 'reconstruction'"),
    ({"reconstruction_weight": 2}, "set 'full_phase_task' to 'reconstruction'"),
    ({"expression_weight": 1}, "'borrowing' is 'none'; set 'borrowing' to 'stem'"),
    ({"init_fold": 1}, "'init' is not set; set 'init' to a model"),
    ({"init_checkpoint": "checkpoint_best.pth"}, "set 'init' to a model"),
    ({"teacher": "joint", "teacher_fold": 1}, "'teacher' is 'joint'; set 'teacher' to a model"),
    ({"teacher_checkpoint": "checkpoint_best.pth"}, "'teacher' is 'warm_start'"),
    ({"init_from_teacher": False}, "set 'teacher' to a model, or leave 'init_from_teacher' out"),
]


@pytest.mark.parametrize("trainer", [None, "nnUNetTrainerMSTKD"])
@pytest.mark.parametrize(("settings", "message"), WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused(settings, message, trainer):
    with pytest.raises(MSTKDError, match=f"has no effect while .*{message}"):
        PlanOptions(settings=settings, trainer=trainer)


@pytest.mark.parametrize("trainer", [None, "nnUNetTrainerMSTKD"])
def test_settings_with_what_gives_them_an_effect(trainer):
    settings = {
        "sampler": "difficulty",
        "single_weight": 2,
        "reference_dice": {"t1c": 0.8},
        "borrowing": "stem",
        "expression_weight": 0,
        "init": "model",
        "init_fold": 0,
        "teacher": "models/one",
        "teacher_fold": "all",
    }
    assert PlanOptions(settings=settings, trainer=trainer).settings == settings


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.trainer)
def test_a_setting_replaces_an_attribute_that_the_trainer_has(method):
    """Or it is an argument of the network; else it would be read by nobody."""
    trainer = method.load()
    of_network = getattr(trainer, "network_settings", {}) if getattr(trainer, "network_class", None) else {}
    from_nnunet = {"num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every"}
    from_nnunet |= {"initial_lr", "weight_decay", "enable_deep_supervision"}
    written = {"terms_off", "regions", "modalities"}
    for name, setting in trainer.settings_read().items():
        known = name in from_nnunet | written | set(of_network) or hasattr(
            trainer, setting.attribute_for(name)
        )
        assert known, name


def test_every_setting_is_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    assert [name for name in known_settings() if f"`{name}`" not in page] == []
