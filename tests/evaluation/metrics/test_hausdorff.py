"""HD95 against MedPy, to 1e-6 mm."""

import numpy as np
import pytest
from medpy.metric.binary import hd95 as medpy_hd95
from scipy.ndimage import binary_erosion, gaussian_filter, generate_binary_structure

from nnunetv2_mstkd.evaluation.metrics import hausdorff
from nnunetv2_mstkd.evaluation.metrics.cropping import bounding_box, grow
from nnunetv2_mstkd.evaluation.metrics.hausdorff import hd95, surface

METHODS = {"tree": 0, "transform": 10**9}  # voxels per surface point from which the tree is taken


@pytest.fixture(params=METHODS, autouse=True)
def method(request, monkeypatch):
    """Every test with both ways to find the nearest voxel, whatever the shapes would choose."""
    monkeypatch.setattr(hausdorff, "_VOXELS_PER_POINT", METHODS[request.param])
    return request.param


def blobs(shape, seed, level=0.0):
    """Smooth random shapes; many of them touch the border."""
    return gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2) > level


def check(prediction, reference, spacing):
    expected = medpy_hd95(prediction, reference, voxelspacing=spacing)
    assert hd95(prediction, reference, spacing) == pytest.approx(expected, abs=1e-6)
    assert hd95(reference, prediction, spacing) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 1.3), (0.001, 10.0, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_random_shapes(seed, spacing):
    check(blobs((18, 24, 21), seed), blobs((18, 24, 21), seed + 100, 0.05), spacing)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.4, 3.0)])
def test_two_dimensions(spacing):
    check(blobs((40, 33), 1), blobs((40, 33), 2), spacing)


@pytest.mark.parametrize("corner", [0, -1])
def test_touching_the_border(corner):
    prediction, reference = np.zeros((2, 12, 13, 14), dtype=bool)
    prediction[:7, 4:9, 3:8] = True  # at one face
    reference[3:, 4:, 5:] = True  # at three faces
    reference[corner, corner, corner] = True
    check(prediction, reference, (2.0, 1.0, 0.5))


def test_filling_the_image():
    reference = np.zeros((6, 7, 8), dtype=bool)
    reference[2, 3, 4] = True
    check(np.ones_like(reference), reference, (1.0, 2.0, 3.0))


def test_one_voxel_each_by_hand():
    prediction, reference = np.zeros((2, 9, 9, 9), dtype=bool)
    prediction[1, 2, 3] = reference[4, 6, 3] = True
    assert hd95(prediction, reference, (2.0, 1.0, 1.0)) == pytest.approx(np.hypot(6.0, 4.0))
    check(prediction, reference, (2.0, 1.0, 1.0))


def test_the_percentile_is_of_both_directions_together():
    prediction, reference = np.zeros((2, 1, 40), dtype=bool)
    reference[0, ::2] = True  # 20 single voxels
    prediction[0, :18:2] = True  # the first 9 of them
    # 9 + 20 distances: 18 zeros, then 2, 4, ..., 22 mm.
    distances = np.r_[np.zeros(18), np.arange(2, 24, 2)]
    assert hd95(prediction, reference, (1.0, 1.0)) == pytest.approx(np.percentile(distances, 95))


def test_scattered_voxels():
    noise = np.random.default_rng(0)
    check(noise.random((14, 15, 16)) < 0.05, noise.random((14, 15, 16)) < 0.2, (1.0, 1.0, 2.0))


def test_the_same_mask_twice():
    mask = blobs((10, 11, 12), 5)
    assert hd95(mask, mask, (1.0, 1.0, 1.0)) == 0.0


@pytest.mark.parametrize("empty", ["prediction", "reference", "both"])
def test_empty_masks_have_no_distance(empty):
    some, none = blobs((8, 8, 8), 3), np.zeros((8, 8, 8), dtype=bool)
    prediction = some if empty == "reference" else none
    reference = some if empty == "prediction" else none
    assert hd95(prediction, reference, (1.0, 1.0, 1.0)) is None


def test_what_does_not_fit_is_refused():
    mask = np.ones((4, 4, 4), dtype=bool)
    with pytest.raises(ValueError, match="spacing"):
        hd95(mask, mask, (1.0, 1.0))
    with pytest.raises(ValueError, match="masks of"):
        hd95(mask, mask[:1], (1.0, 1.0, 1.0))


@pytest.mark.parametrize("shape", [(13, 14, 15), (20, 21)])
def test_surface_is_the_mask_without_its_erosion(shape):
    mask = blobs(shape, 7)
    eroded = binary_erosion(mask, generate_binary_structure(len(shape), 1))
    np.testing.assert_array_equal(surface(mask), mask ^ eroded)


def test_the_box_is_tight_and_grows_to_the_border_only():
    mask = np.zeros((6, 8, 10), dtype=bool)
    mask[1, 2:5, 9] = mask[4, 3, 2] = True
    box = bounding_box(mask)
    assert box == (slice(1, 5), slice(2, 5), slice(2, 10))
    assert grow(box, 2, mask.shape) == (slice(0, 6), slice(0, 7), slice(0, 10))
    assert bounding_box(np.zeros((3, 3), dtype=bool)) is None
