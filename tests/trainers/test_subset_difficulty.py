"""The sampler ``difficulty``: it follows the online validation, and a continued training goes on with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from loop import losses, train

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets
from nnunetv2_mstkd.trainers.subset_difficulty import SubsetDifficulty, followed
from nnunetv2_mstkd.transforms import build_sampler
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY

FULL, T1C, FLAIR = frozenset(BRATS_MODALITIES), frozenset({"t1c"}), frozenset({"t2f"})
DIFFICULTY = {"sampler": "difficulty"}


def following(reference=None) -> SubsetDifficulty:
    return followed(build_sampler("difficulty", BRATS_MODALITIES), BRATS_MODALITIES, reference)


def all_at(value: float, **others: float) -> dict:
    named = {"t1c": T1C, "t2f": FLAIR, "full": FULL}
    return dict.fromkeys(all_subsets(BRATS_MODALITIES), value) | {named[k]: v for k, v in others.items()}


def test_what_falls_behind_is_drawn_more_often():
    difficulty = following()
    start = dict(difficulty.probabilities)
    for epoch in range(10):
        gains = {"full": 0.5 + 0.04 * epoch, "t1c": 0.5 + 0.04 * epoch, "t2f": 0.2}
        difficulty.update(all_at(0.5 + 0.04 * epoch, **gains), (epoch + 1) / 100)
        assert difficulty.probabilities == pytest.approx(start), "nothing is known before a tenth"
    for epoch in range(10, 60):
        gains = {"full": 0.5 + 0.004 * epoch, "t1c": 0.5 + 0.004 * epoch, "t2f": 0.2}
        difficulty.update(all_at(0.5 + 0.004 * epoch, **gains), (epoch + 1) / 100)
    found = difficulty.probabilities
    assert max(found, key=found.get) == "t2f"
    assert found["t2f"] > 1.5 / 15
    assert found["t1c"] == pytest.approx(found["t2w"])


def test_a_low_dice_that_keeps_its_distance_is_not_hard():
    difficulty = following()
    for epoch in range(50):
        difficulty.update(all_at(0.6, t2f=0.1), (epoch + 1) / 50)
    assert difficulty.probabilities == pytest.approx(following().probabilities)


def test_with_a_reference_what_can_still_be_gained_counts():
    difficulty = following({"t1c": 0.8, "t2f": 0.2, "t2w": 0.6, "t1n": 0.6})
    for epoch in range(50):
        difficulty.update(all_at(0.6, t1c=0.5, t2f=0.1), (epoch + 1) / 50)
    found = difficulty.probabilities
    assert found["t1c"] > found["t2f"] > found["t2w"] == pytest.approx(found["t1n"])
    assert found["t1n+t1c"] == pytest.approx(found["t2w+t2f"]), "no reference: as it was, among the others"


def test_a_subset_that_was_not_seen_for_a_while_is_not_left_behind():
    """All improve alike, and the validation shows one subset after the other beside the full set."""
    difficulty, subsets = following(), [s for s in all_subsets(BRATS_MODALITIES) if s != FULL]
    for epoch in range(60):
        value = 0.01 * epoch
        difficulty.update({FULL: value + 0.2, subsets[epoch % 14]: value}, (epoch + 1) / 60)
    assert difficulty.probabilities == pytest.approx(following().probabilities)


def test_few_and_empty_validation_patches_change_nothing_for_the_others():
    difficulty = following()
    difficulty.update({FULL: float("nan"), T1C: 0.5}, 0.5)
    difficulty.update({T1C: 0.5}, 0.6)
    assert difficulty.running == {T1C: 0.5}
    assert difficulty.probabilities == pytest.approx(following().probabilities)
    assert followed(build_sampler("uniform", BRATS_MODALITIES), BRATS_MODALITIES, None) is None


def test_masks_are_drawn_with_it_within_what_a_case_has():
    difficulty = following()
    difficulty.sampler.weights = np.array([float(s == FLAIR) + 1e-9 for s in all_subsets(BRATS_MODALITIES)])
    available = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    batch = {MASK_KEY: torch.ones(2, 4), BATCH_AVAILABLE_KEY: available, "data": "kept"}
    drawn = difficulty.redrawn(batch)
    assert drawn[MASK_KEY].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert drawn["data"] == "kept"
    assert batch[MASK_KEY].all()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [None, "nested"])
def test_a_continued_training_repeats_an_uninterrupted_one(make_trainer, teacher):
    name = "ModalityDropout" if teacher is None else "MSTKDUNet"
    settings = DIFFICULTY | {"save_every": 1, "num_val_iterations_per_epoch": 15, "full_phase": 0.25}
    settings |= {"single_weight": 2} | ({"teacher": teacher} if teacher else {})
    make = partial(make_trainer, getattr(methods, f"nnUNetTrainer{name}"), settings=settings)
    whole = train(make(results="whole"))
    train(make(results="stopped"), epochs=3)
    again = make(results="stopped")
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    assert again.difficulty.probabilities != following().probabilities
    assert losses(train(again)) == losses(whole)
    assert again.difficulty.state_dict() == whole.difficulty.state_dict()
    log = next(Path(whole.output_folder).glob("training_log_*.txt")).read_text()
    assert log.count("Subsets are drawn with") == 3, "every epoch of the masking phase"
    final = torch.load(f"{whole.output_folder}/checkpoint_final.pth", weights_only=False)
    assert "difficulty" not in final["mstkd"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference_dice": {"t1c": 0.8}}, "no effect while 'sampler' is 'uniform'; set .* 'difficulty'"),
        (DIFFICULTY | {"reference_dice": {"pet": 0.8}}, "unknown modality 'pet'"),
        (DIFFICULTY | {"reference_dice": {"t1c": 0.8, "T1ce": 0.8}}, "names a subset twice"),
        ({"sampler": "by_count", "single_weight": 2}, "no effect while 'sampler' is 'by_count'"),
    ],
)
def test_refusals_before_any_data_are_read(make_trainer, settings, message):
    with pytest.raises(MSTKDError, match=message):
        make_trainer(methods.nnUNetTrainerModalityDropout, settings=settings)
