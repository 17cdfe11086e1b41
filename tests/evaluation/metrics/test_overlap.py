"""Voxel counts and Dice against MedPy and nnU-Net."""

import math

import numpy as np
import pytest
from medpy.metric.binary import dc
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

from nnunetv2_mstkd.evaluation.metrics.overlap import Overlap, count_overlap, dice


@pytest.mark.parametrize("shape", [(6, 7, 8), (9, 11)])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_equal_to_medpy_and_nnunet(shape, share):
    noise = np.random.default_rng(0)
    prediction, reference = noise.random(shape) < share, noise.random(shape) < 0.3
    counts = count_overlap(prediction, reference)
    assert counts == tuple(compute_tp_fp_fn_tn(reference, prediction)[:3])
    assert dice(*counts) == pytest.approx(dc(prediction, reference), abs=1e-12)


def test_counts_by_hand():
    prediction = np.array([[True, True, False], [True, False, False]])
    reference = np.array([[True, False, False], [True, True, True]])
    assert count_overlap(prediction, reference) == Overlap(tp=2, fp=1, fn=2)
    assert dice(2, 1, 2) == pytest.approx(4 / 7)
    assert dice(2, 1, 2, smooth=1.0) == pytest.approx(5 / 8)


def test_two_empty_masks_have_no_dice():
    assert math.isnan(dice(0, 0, 0))
    assert dice(0, 3, 0) == 0.0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        count_overlap(np.ones((1, 4), bool), np.ones((4, 4), bool))  # numpy would broadcast them
