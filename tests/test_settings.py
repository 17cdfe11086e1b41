import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.settings import parse_settings


def test_nothing_given():
    assert parse_settings(None).given() == parse_settings({}).given() == {}


def test_what_is_given_comes_back():
    given = {"num_epochs": 5, "full_phase": 0, "sampler": "weights", "subset_weights": {"t1c": 1}}
    assert parse_settings(given).given() == given


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
        ({"sampler": "lottery"}, "one of uniform, bernoulli, by_count, weights"),
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
        ("num_epochs=3", "must be a dict"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(MSTKDError, match=message):
        parse_settings(settings)
