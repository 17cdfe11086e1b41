from dataclasses import FrozenInstanceError, fields, replace

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.schedules import linear_rampup, sigmoid_rampup
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES, ObjectiveConfig

PUBLISHED = {
    "segmentation": 0.6,
    "teacher_segmentation": 0.4,
    "consistency": 10,
    "kl": 1,
    "content": 0.2,
    "token_features": 0.2,
    "attention": 1e8,
    "gram": 0,
    "adversarial": 0.0002,
    "foreground_kl": 0,
    "more_vs_fewer": 0,
}
OF_PAIRS = {"foreground_kl", "more_vs_fewer"}


def test_official_constants():
    config = ObjectiveConfig.official()
    assert {name: getattr(config, name) for name in TERM_NAMES} == pytest.approx(PUBLISHED)
    assert config.temperature == config.label_temperature == 7
    assert config.caps == {}


def test_official_attention_weight_follows_the_fourth_power_of_the_tokens():
    assert ObjectiveConfig.official(64).attention == pytest.approx(8.09e6, rel=1e-3)  # 128³
    assert ObjectiveConfig.official(240).attention == pytest.approx(16e8)


def test_every_term_acts_by_default_and_every_distillation_term_has_a_cap():
    config = ObjectiveConfig()
    assert {name for name in TERM_NAMES if getattr(config, name) == 0} == OF_PAIRS
    # The hinge only weighs the segmentation losses of some items a little more.
    assert set(config.caps) == set(TERM_NAMES) - {"segmentation", "teacher_segmentation", "more_vs_fewer"}
    assert set(TERM_NAMES) <= {f.name for f in fields(config)}


def test_consistency_and_kl_ramp_over_a_fifth_of_the_epochs_and_nothing_else_does():
    config = ObjectiveConfig()
    for name in TERM_NAMES:
        ramp = sigmoid_rampup(5, 20) if name in ("consistency", "kl") else 1
        assert config.weight(name, 5, 100) == pytest.approx(getattr(config, name) * ramp)
        assert config.weight(name, 20, 100) == getattr(config, name)


def test_nested_pairs_start_with_two_terms_alone():
    config = ObjectiveConfig.nested()
    acting = {name: weight for name, weight in config.weights().items() if weight}
    assert acting == {
        "segmentation": 1,
        "teacher_segmentation": 1,
        "foreground_kl": 0.5,
        "more_vs_fewer": 0.1,
    }
    for epoch in (0, 5, 20, 60):
        assert config.weight("foreground_kl", epoch, 100) == pytest.approx(0.5 * linear_rampup(epoch, 20))
        assert config.weight("more_vs_fewer", epoch, 100) == 0.1


def test_official_ramps_consistency_alone_over_twenty_epochs_of_any_length():
    config = ObjectiveConfig.official()
    assert config.weight("consistency", 19, 1000) < 10
    assert config.weight("consistency", 20, 1000) == 10
    assert config.weight("kl", 0, 1000) == 1


def test_kl_of_label_heads_has_a_factor_of_its_own():
    config = ObjectiveConfig()
    assert config.weight("kl", 50, 100, raw_logits=False) == config.kl * config.label_kl_factor
    assert config.weight("gram", 50, 100, raw_logits=False) == config.gram
    assert ObjectiveConfig.official().weight("kl", 50, 100, raw_logits=False) == 1


def test_a_kl_weight_that_was_given_is_meant_as_it_stands():
    given = ObjectiveConfig().with_weights({"kl": 0.5}).with_weights({"gram": 0})
    assert given.weight("kl", 50, 100, raw_logits=False) == 0.5
    other = ObjectiveConfig().with_weights({"gram": 0})
    assert other.weight("kl", 50, 100, raw_logits=False) == 4


def test_with_weights_replaces_what_is_named():
    config = ObjectiveConfig().with_weights({"kl": 3, "gram": 0})
    assert (config.kl, config.gram) == (3.0, 0.0)
    assert config.with_weights({}) == config
    back = config.with_weights({"kl": ObjectiveConfig().kl, "gram": ObjectiveConfig().gram})
    assert back == replace(ObjectiveConfig(), label_kl_factor=1)


def test_unknown_term_lists_the_known_ones():
    with pytest.raises(
        MSTKDError, match=r"unknown objective term 'style'; known: segmentation, .*adversarial"
    ):
        ObjectiveConfig().with_weights({"style": 1})
    with pytest.raises(MSTKDError, match="unknown objective term 'temperature'"):
        ObjectiveConfig().with_weights({"temperature": 1})


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "1", None, True])
def test_a_weight_is_a_finite_number_of_at_least_zero(weight):
    with pytest.raises(MSTKDError, match="weight of term 'kl'"):
        ObjectiveConfig().with_weights({"kl": weight})


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        ObjectiveConfig().kl = 2
