"""A term that is off is not computed: its function is never called, and no tap is made for it alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from loop import train

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.methods.mstkd import objective
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD
from nnunetv2_mstkd.methods.mstkd.transformer import SelfAttention
from nnunetv2_mstkd.methods.mstkd.variants import (
    nnUNetTrainerMSTKD_PlainStudent,
    nnUNetTrainerMSTKD_woGSME,
    nnUNetTrainerMSTKD_woSLKD,
    nnUNetTrainerMSTKD_woTransformerKD,
    nnUNetTrainerMSTKDFrozenTeacher,
)
from nnunetv2_mstkd.trainers.teaching import trainer as distilling
from nnunetv2_mstkd.trainers.teaching.own_teachers import FrozenTeacher

LOSSES = {
    "token_features": "token_feature_loss",
    "attention": "attention_extremes_loss",
    "content": "content_loss",
    "gram": "gram_matching_loss",
    "adversarial": "style_adversarial_loss",
    "consistency": "consistency_loss",
    "kl": "standardised_kl_loss",
}
STEPS = 2


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often each term, the attention matrices, the discriminator and the teacher were computed."""
    counted: Counter = Counter()
    monkeypatch.setattr(distilling, "rehearse", lambda *_: None)  # steps of the training are counted

    def count(owner, name, label, **patch):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            counted[label] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting, **patch)

    for term, function in LOSSES.items():
        count(objective, function, term)
    count(SelfAttention, "_probabilities", "attention matrices")
    monkeypatch.setattr(
        SelfAttention, "_probabilities", staticmethod(SelfAttention.__dict__["_probabilities"])
    )
    count(StyleDiscriminator, "forward", "discriminator")
    count(FrozenTeacher, "taps", "teacher")
    return counted


@pytest.mark.parametrize(
    ("trainer_class", "off"),
    [
        (nnUNetTrainerMSTKD, set()),
        (nnUNetTrainerMSTKD_woTransformerKD, {"token_features", "attention"}),
        (nnUNetTrainerMSTKD_woGSME, {"content", "gram", "adversarial"}),
        (nnUNetTrainerMSTKD_woSLKD, {"consistency", "kl"}),
        (nnUNetTrainerMSTKD_PlainStudent, set(LOSSES)),
    ],
)
def test_what_is_off_is_not_computed(make_trainer, calls, trainer_class, off):
    settings = {"num_epochs": 2, "num_iterations_per_epoch": STEPS, "gradient_shares_every": 0}
    trainer = make_trainer(trainer_class, settings=settings)
    trainer.initialize()
    calls.clear()  # shapes are asked for once, without computing
    train(trainer)
    for term in LOSSES:
        assert calls[term] == (0 if term in off else STEPS), term
        assert (f"terms/{term}" in trainer.history.names()) == (term not in off)
    tapped = len(trainer.network.tokens.transformer.taps)
    assert calls["attention matrices"] == (0 if "attention" in off else 2 * STEPS * tapped)
    assert bool(calls["discriminator"]) == ("adversarial" not in off)
    assert calls["teacher"] == (0 if off == set(LOSSES) else STEPS)


def test_the_plans_cannot_switch_an_ablated_term_on(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKD_woSLKD, settings={"weights": {"kl": 2.0, "gram": 0.5}})
    trainer.initialize()
    assert (trainer.config.kl, trainer.config.gram) == (0.0, 0.5)


def test_no_teacher_is_looked_for_where_nothing_is_distilled(make_trainer, tmp_path):
    off = dict.fromkeys(LOSSES, 0)
    settings = {"teacher": str(tmp_path), "weights": off, "num_epochs": 1}
    trainer = train(make_trainer(nnUNetTrainerMSTKDFrozenTeacher, settings=settings))
    assert torch.isfinite(torch.tensor(trainer.logger.get_value("train_losses", None))).all()
