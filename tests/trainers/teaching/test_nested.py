"""The teacher ``nested``: one patch twice in the batch, under two nested subsets."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from loop import losses, train
from torch import nn

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.checkpoints import EXTRA_KEY
from nnunetv2_mstkd.trainers.step import MaskedBatch

NESTED = {"teacher": "nested"}
NOTHING_LEADS = {"foreground_kl": 0, "more_vs_fewer": 0}
INSIDE = {"token_features": 0.3, "attention": 0.05, "gram": 0.4, "adversarial": 0.001, "content": 0.1}


def masking(make_trainer, name="nnUNetTrainerMSTKD", *, regions=True, batch_size=2, settings=None):
    """A trainer in its masking phase, past the ramp, without dropout."""

    def resize(content):
        content["configurations"]["tiny"]["batch_size"] = batch_size

    given = {**NESTED, "gradient_shares_every": 0, **(settings or {})}
    trainer = make_trainer(getattr(methods, name), regions=regions, settings=given, change=resize)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.teaching.start_epoch()
    for module in trainer.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trainer


def batch_of(trainer, available=None) -> MaskedBatch:
    size, regions = trainer.batch_size, trainer.label_manager.has_regions
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(size, 4, 16, 16, 16, generator=draw)
    target = torch.randint(0, 2 if regions else 4, (size, 3 if regions else 1, 16, 16, 16), generator=draw)
    scales = trainer._get_deep_supervision_scales()
    levels = [
        target.float()[(..., *(slice(None, None, round(1 / s)) for s in scale))] for scale in scales or []
    ]
    mask = torch.zeros(size, 4)
    mask[:, 3] = 1
    if available is None:
        available = torch.ones(size, 4, dtype=torch.bool)
    complete = tuple(available.all(1).tolist())
    return MaskedBatch(data, mask, levels if scales else target.float(), complete, available)


# ---------------------------------------------------------------- the batch


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_half_the_patches_stand_twice_under_nested_subsets(make_trainer, size):
    trainer = masking(make_trainer, batch_size=size)
    batch, used = batch_of(trainer), []
    for _ in range(2):
        found = trainer.teaching.arranged(batch)
        pairs = size // 2
        assert len(found.data) == len(found.mask) == len(found.complete) == size
        assert torch.equal(found.data[:pairs], found.data[pairs : 2 * pairs])
        for level in found.target if isinstance(found.target, list) else [found.target]:
            assert torch.equal(level[:pairs], level[pairs : 2 * pairs])
        more, fewer = found.mask[:pairs], found.mask[pairs : 2 * pairs]
        assert (fewer <= more).all()
        assert (fewer.sum(1) < more.sum(1)).all()
        assert (fewer.sum(1) > 0).all()
        assert found.followers == list(range(pairs, 2 * pairs))
        assert [found.leaders[i] for i in found.followers] == list(range(pairs))
        assert torch.equal(found.mask[2 * pairs :], batch.mask[: size % 2]), "an odd one stays as it was"
        rows = [next(i for i, x in enumerate(batch.data) if torch.equal(x, y)) for y in found.data]
        assert len(set(rows)) == pairs + size % 2
        used.append(set(rows[:pairs]))
    assert not used[0] & used[1], "the other patches have their turn in the next step"


def test_a_pair_stays_inside_what_its_case_has(make_trainer):
    trainer = masking(make_trainer, batch_size=4)
    has = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]]).bool()
    batch = batch_of(trainer, has)
    trainer.teaching.steps = 0
    found = trainer.teaching.arranged(batch)
    assert torch.equal(found.available, has[[0, 2, 0, 2]])
    assert (found.mask.bool() <= found.available).all()
    assert found.complete == (False,) * 4
    # The single modality is seen twice alike, and teaches nobody.
    assert torch.equal(found.mask[1], found.mask[3])
    assert found.leaders == (0, 1, 0, 3)
    assert trainer._samples_with_teacher(found).tolist() == [2]


def test_single_modalities_alone_leave_every_term_at_zero(make_trainer):
    """All terms are there, so that the processes of a distributed training have the same ones."""
    trainer = masking(make_trainer, settings={"weights": INSIDE})
    only = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]).bool()
    found = trainer.compute_losses(batch_of(trainer, only))
    compared = set(found.terms) - {"segmentation", "adversarial"}
    assert compared == {"foreground_kl", "more_vs_fewer", *INSIDE} - {"adversarial"}
    assert all(abs(float(found.terms[name].detach())) < 1e-6 for name in compared)
    trainer.backward(found.total)
    assert all(p.grad.isfinite().all() for p in trainer.network.parameters() if p.grad is not None)


# ---------------------------------------------------------------- what a step learns from


@pytest.mark.parametrize("name", ["nnUNetTrainerMSTKD", "nnUNetTrainerMSTKDUNet"])
@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
def test_segmentation_is_nnunets_on_the_whole_batch_and_the_terms_lead_to_the_poorer(
    make_trainer, name, regions
):
    trainer = masking(make_trainer, name, regions=regions, batch_size=4)
    arranged = trainer.teaching.arranged(batch_of(trainer))
    trainer.teaching.arranged = lambda batch: arranged
    seen = []
    keep = trainer.network.register_forward_hook(lambda *args: seen.append(args[-1]))
    result = trainer.compute_losses(arranged)
    keep.remove()
    (taps,) = seen  # one pass
    assert set(result.terms) == {"segmentation", "foreground_kl", "more_vs_fewer"}
    torch.testing.assert_close(result.terms["segmentation"], trainer.loss(taps.logits, arranged.target))
    richer, poorer = taps.finest[:2], taps.finest[2:]
    sigma = torch.sigmoid if regions else partial(torch.softmax, dim=1)
    assert not torch.allclose(sigma(richer), sigma(poorer))
    by_term = {
        term: torch.autograd.grad(result.terms[term], taps.finest, retain_graph=True)[0]
        for term in ("foreground_kl", "more_vs_fewer")
    }
    assert not by_term["foreground_kl"][:2].any()
    assert by_term["foreground_kl"][2:].any()
    assert not by_term["more_vs_fewer"][2:].any()
    weights = {"foreground_kl": 0.5, "more_vs_fewer": 0.1}
    total = result.terms["segmentation"] + sum(w * result.terms[t] for t, w in weights.items())
    if trainer.phases.position(trainer.current_epoch)[0] >= 0.2 * trainer.phases.num_epochs:
        torch.testing.assert_close(result.total, total)


def test_without_terms_the_pairs_remain(make_trainer):
    """The control: the same batches, nothing leads."""
    trainer = masking(make_trainer, settings={"weights": NOTHING_LEADS}, batch_size=4)
    seen = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = trainer.compute_losses(batch_of(trainer))
    assert set(found.terms) == {"segmentation"}
    zero = (seen[0] == 0).flatten(2).all(2)
    assert (zero[:2] <= zero[2:]).all()
    assert (zero[:2].sum(1) < zero[2:].sum(1)).all()


def test_tokens_attention_and_style_follow_by_their_weights(make_trainer):
    trainer = masking(make_trainer, settings={"weights": INSIDE})
    found = trainer.compute_losses(batch_of(trainer))
    assert set(found.terms) == {"segmentation", "foreground_kl", "more_vs_fewer", *INSIDE}
    judged = trainer.step_state.judged["discriminator"]
    assert judged["student"].shape == judged["teacher"].shape
    assert not torch.equal(judged["student"], judged["teacher"])
    assert set(trainer.after_step()) == {"discriminator"}


def test_incomplete_cases_may_be_left_to_the_segmentation(make_trainer):
    trainer = masking(make_trainer, settings={"teacher_on_incomplete": "skip"}, batch_size=4)
    has = torch.ones(4, 4, dtype=torch.bool)
    has[0, 1] = False
    batch = batch_of(trainer, has)
    trainer.teaching.steps = 0
    assert trainer._samples_with_teacher(trainer.teaching.arranged(batch)).tolist() == [3]
    has[2, 1] = False
    trainer.teaching.steps = 0
    assert set(trainer.compute_losses(batch_of(trainer, has)).terms) == {"segmentation"}


# ---------------------------------------------------------------- whole trainings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnUNetTrainerMSTKD", "nnUNetTrainerMSTKDUNet"])
def test_begins_after_a_full_phase_and_keeps_no_second_network(make_trainer, name):
    settings = NESTED | {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    trainer = train(make_trainer(getattr(methods, name), settings=settings))
    assert trainer.phases.full_epochs == 2
    assert all(map(math.isfinite, losses(trainer)))
    assert "terms/more_vs_fewer" in trainer.history.names()
    assert 0 not in trainer.history.series("terms/more_vs_fewer")[0]
    extra = torch.load(f"{trainer.output_folder}/checkpoint_best.pth", weights_only=False)[EXTRA_KEY]
    assert "teacher" not in extra


@pytest.mark.slow
@pytest.mark.parametrize("full_phase", [0, 0.5])
def test_a_continued_training_repeats_an_uninterrupted_one(make_trainer, full_phase):
    settings = NESTED | {"save_every": 1, "full_phase": full_phase, "num_iterations_per_epoch": 3}
    make = partial(make_trainer, methods.nnUNetTrainerMSTKDUNet, settings=settings)
    whole = train(make(results="whole"))
    train(make(results="stopped"), epochs=3)
    again = make(results="stopped")
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    assert losses(train(again)) == losses(whole)
    expected = unwrap(whole.network).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in unwrap(again.network).state_dict().items())


@pytest.mark.slow
def test_two_dimensions_and_another_sampler(make_trainer):
    settings = NESTED | {"sampler": "by_count", "num_epochs": 2, "num_iterations_per_epoch": 1}
    trainer = train(make_trainer(methods.nnUNetTrainerMSTKD, settings=settings, patch=(16, 16)))
    assert all(map(math.isfinite, losses(trainer)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnUNetTrainerMSTKD", "nnUNetTrainerMSTKDUNet"])
def test_compiled_without_graph_breaks_gives_the_same_loss(make_trainer, monkeypatch, name):
    def loss() -> torch.Tensor:
        trainer = masking(make_trainer, name, settings={"weights": INSIDE})
        torch.manual_seed(2)
        np.random.seed(2)
        return trainer.compute_losses(batch_of(trainer)).total

    expected = loss()
    torch._dynamo.reset()
    compile_network = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda x: compile_network(x) if isinstance(x, nn.Module) else x)
    monkeypatch.setattr(getattr(methods, name), "_do_i_compile", lambda self: True)
    torch.testing.assert_close(loss(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_trial_step_draws_nothing_from_the_training(make_trainer, monkeypatch):
    from nnunetv2_mstkd.trainers.teaching import trainer as taught

    settings = NESTED | {"num_iterations_per_epoch": 1}
    tried = train(make_trainer(methods.nnUNetTrainerMSTKDUNet, results="a", settings=settings))
    monkeypatch.setattr(taught, "rehearse", lambda *_: None)
    plain = train(make_trainer(methods.nnUNetTrainerMSTKDUNet, results="b", settings=settings))
    assert losses(tried) == losses(plain)
    log = next(Path(tried.output_folder).glob("training_log_*.txt")).read_text()
    assert "Trying a step of the masking phase" in log


# ---------------------------------------------------------------- refusals


def test_a_batch_of_one_is_refused(make_trainer):
    with pytest.raises(MSTKDError, match=r"into the batch twice, but the batch size is 1; plan for 2"):
        masking(make_trainer, batch_size=1)


@pytest.mark.parametrize("name", ["nnUNetTrainerACN", "nnUNetTrainerSMUNet"])
def test_methods_that_pull_their_teacher_are_refused(make_trainer, name):
    trainer = make_trainer(getattr(methods, name), settings=NESTED | {"base_features": 8})
    with pytest.raises(MSTKDError, match="'nested' needs terms that leave the teacher alone"):
        trainer.initialize()


@pytest.mark.parametrize("name", ["nnUNetTrainerMSTKDJoint", "nnUNetTrainerMSTKDShared"])
def test_trainers_with_a_teacher_of_their_own_are_refused(make_trainer, name):
    with pytest.raises(MSTKDError, match="but these plans name teacher 'nested'"):
        make_trainer(getattr(methods, name), settings=NESTED).initialize()


def test_the_hinge_needs_pairs(make_trainer):
    trainer = make_trainer(methods.nnUNetTrainerMSTKD, settings={"weights": {"more_vs_fewer": 0.1}})
    with pytest.raises(MSTKDError, match=r"'more_vs_fewer' compares two members .* is 'warm_start'; set"):
        trainer.initialize()
