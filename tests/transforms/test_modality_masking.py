from collections import Counter
from multiprocessing import get_all_start_methods

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from scipy.stats import chisquare

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, parse_subset, subset_mask
from nnunetv2_mstkd.transforms import ModalityMaskingTransform, build_sampler, mask_modalities

FOUR = np.ones(4, dtype=bool)


def draws(sampler, available=FOUR, n=6000, seed=0):
    np.random.seed(seed)
    return np.stack([sampler.sample(available) for _ in range(n)])


class TestMaskModalities:
    def test_absent_channels_are_zero_whatever_they_held(self):
        image = torch.full((2, 3, 4, 4, 4), float("nan"))
        image[:, 1] = 5.0
        masked = mask_modalities(image, torch.tensor([[0, 1, 0], [0, 1, 0]]))
        assert torch.equal(masked[:, 1], image[:, 1])
        assert (masked[:, [0, 2]] == 0).all()

    def test_batch_equals_singles(self):
        image, mask = torch.randn(3, 4, 5, 6), torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
        batch = mask_modalities(image, mask)
        for sample, single_mask, expected in zip(image, mask, batch, strict=True):
            assert torch.equal(mask_modalities(sample, single_mask), expected)

    def test_channels_beyond_the_modalities_are_untouched(self):
        image = torch.randn(2, 4 + 3, 5, 5, 5)
        masked = mask_modalities(image, torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]))
        assert torch.equal(masked[:, 4:], image[:, 4:])
        assert (masked[0, 1:4] == 0).all()

    def test_the_input_is_not_changed(self):
        image = torch.ones(1, 2, 3, 3)
        mask_modalities(image, torch.tensor([[1, 0]]))
        assert (image == 1).all()


class TestTransform:
    def test_leaves_the_image_whole_for_the_teacher_and_delivers_the_mask(self):
        np.random.seed(0)
        image, segmentation = torch.randn(4, 6, 6, 6), torch.ones(1, 6, 6, 6)
        sample = ModalityMaskingTransform(BRATS_MODALITIES)(image=image.clone(), segmentation=segmentation)
        assert torch.equal(sample["image"], image)
        assert torch.equal(sample["segmentation"], segmentation)
        assert sample["modality_mask"].shape == (4,)
        assert sample["modality_mask"].any()

    def test_can_mask_in_place_of_the_trainer(self):
        np.random.seed(1)
        image = torch.randn(4, 6, 6, 6)
        sample = ModalityMaskingTransform(BRATS_MODALITIES, apply_mask=True)(image=image.clone())
        assert torch.equal(sample["image"], mask_modalities(image, sample["modality_mask"]))

    def test_case_availability_bounds_the_draw(self):
        np.random.seed(2)
        transform = ModalityMaskingTransform(BRATS_MODALITIES)
        available = (True, False, False, True)
        for _ in range(200):
            mask = transform(image=torch.zeros(4, 2, 2), available_modalities=available)["modality_mask"]
            assert mask.any()
            assert not mask[[1, 2]].any()

    def test_repr_names_what_it_does(self):
        assert "UniformSampler" in repr(ModalityMaskingTransform(BRATS_MODALITIES))


class TestSamplers:
    def test_uniform_over_the_fifteen_subsets(self):
        counts = Counter(map(tuple, draws(build_sampler("uniform", BRATS_MODALITIES))))
        assert len(counts) == len(all_subsets(BRATS_MODALITIES))
        assert chisquare(list(counts.values())).pvalue > 1e-3

    def test_uniform_over_what_a_case_can_have(self):
        available = np.array([True, False, True, False])
        counts = Counter(map(tuple, draws(build_sampler("uniform", BRATS_MODALITIES), available)))
        assert len(counts) == 3
        assert chisquare(list(counts.values())).pvalue > 1e-3

    def test_by_count_is_uniform_over_sizes(self):
        sizes = Counter(draws(build_sampler("by_count", BRATS_MODALITIES)).sum(axis=1).tolist())
        assert chisquare([sizes[k] for k in (1, 2, 3, 4)]).pvalue > 1e-3

    def test_bernoulli_by_name_never_empty(self):
        sampler = build_sampler("bernoulli", BRATS_MODALITIES, keep_probability={"flair": 0.9, "T1ce": 0.1})
        kept = draws(sampler)
        assert kept.any(axis=1).all()
        # P(kept | not empty) with p = (.5, .1, .5, .9): divided by 1 - .5·.9·.5·.1
        expected = np.array([0.5, 0.1, 0.5, 0.9]) / (1 - 0.5 * 0.9 * 0.5 * 0.1)
        np.testing.assert_allclose(kept.mean(axis=0), expected, atol=0.03)

    def test_user_weights(self):
        sampler = build_sampler("weights", BRATS_MODALITIES, subset_weights={"t1c+flair": 3, "t2": 1})
        counts = Counter(map(tuple, draws(sampler)))
        assert set(counts) == {(False, True, False, True), (False, False, True, False)}
        assert chisquare([counts[0, 1, 0, 1], counts[0, 0, 1, 0]], [4500, 1500]).pvalue > 1e-3

    def test_user_weights_fall_back_when_a_case_has_none_of_the_subsets(self):
        sampler = build_sampler("weights", BRATS_MODALITIES, subset_weights={"t1c+flair": 1})
        kept = draws(sampler, np.array([True, True, False, False]), n=300)
        assert kept.any(axis=1).all()
        assert not kept[:, 2:].any()

    @pytest.mark.parametrize(
        ("name", "options", "expected"),
        [
            # Of t1n, t1c, t2f, in the order below; each as the sampler is defined, on what the case has.
            ("uniform", {}, [1 / 7] * 7),
            ("by_count", {}, [1 / 9] * 6 + [1 / 3]),
            (
                "bernoulli",
                {"keep_probability": {"t1n": 0.2, "t1c": 0.5, "t2w": 0.9, "t2f": 0.5}},
                np.array([0.05, 0.2, 0.2, 0.05, 0.05, 0.2, 0.05]) / 0.8,
            ),
            (
                "weights",
                {"subset_weights": {"t1n": 1, "t1c+t2f": 3, "t1n+t2w": 9, "t2w": 5}},
                [0.25, 0, 0, 0, 0, 0.75, 0],
            ),
        ],
    )
    def test_every_sampler_keeps_its_distribution_over_what_a_case_has(self, name, options, expected):
        available = np.array([True, True, False, True])
        names = ("t1n", "t1c", "t2f", "t1n+t1c", "t1n+t2f", "t1c+t2f", "t1n+t1c+t2f")
        order = [subset_mask(parse_subset(n, BRATS_MODALITIES), BRATS_MODALITIES) for n in names]
        counts = Counter(map(tuple, draws(build_sampler(name, BRATS_MODALITIES, **options), available)))
        assert set(counts) == {m for m, share in zip(order, expected, strict=True) if share}
        seen, shares = zip(*((counts[m], s) for m, s in zip(order, expected, strict=True) if s), strict=True)
        assert chisquare(seen, np.array(shares) * sum(seen)).pvalue > 1e-3

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("gaussian", {}, "unknown sampler 'gaussian'"),
            ("weights", {}, "at least one number above 0"),
            ("weights", {"subset_weights": {"t1c": 0}}, "at least one number above 0"),
            ("weights", {"subset_weights": {"pet": 1}}, "unknown modality 'pet'"),
            ("bernoulli", {"keep_probability": {"pet": 0.5}}, "unknown modality 'pet'"),
        ],
    )
    def test_refusals(self, name, options, message):
        with pytest.raises(MSTKDError, match=message):
            build_sampler(name, BRATS_MODALITIES, **options)


class _Loader:
    """Endless samples through a pipeline, as nnU-Net's loader makes them in worker processes."""

    def __init__(self):
        self.pipeline = ComposeTransforms([ModalityMaskingTransform(tuple(f"m{i}" for i in range(24)))])

    def set_thread_id(self, thread_id):
        self.thread_id = thread_id

    def __next__(self):
        masks = [self.pipeline(image=torch.zeros(24, 1, 1))["modality_mask"] for _ in range(8)]
        return {"worker": self.thread_id, "mask": torch.stack(masks)}


def _masks_by_worker(seeds):
    generator = NonDetMultiThreadedAugmenter(_Loader(), None, 2, num_cached=2, seeds=seeds, wait_time=0.002)
    first: dict[int, torch.Tensor] = {}
    try:
        for _ in range(20_000):  # the second worker may start late on a busy machine
            item = next(generator)
            first.setdefault(item["worker"], item["mask"])
            if len(first) == 2:
                return first
    finally:
        generator._finish()
    raise AssertionError("one worker never delivered")


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="workers are forked")
def test_masks_are_independent_across_worker_processes_and_seeded():
    unseeded, seeded, again = _masks_by_worker(None), _masks_by_worker([3, 4]), _masks_by_worker([3, 4])
    assert not torch.equal(unseeded[0], unseeded[1])
    assert not torch.equal(seeded[0], seeded[1])
    for worker in (0, 1):
        assert torch.equal(seeded[worker], again[worker])
