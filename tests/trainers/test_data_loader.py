import numpy as np
import torch

from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout


def loaded(make_trainer, **options):
    trainer = make_trainer(nnUNetTrainerModalityDropout, **options)
    trainer.initialize()
    generator, validation = trainer.get_dataloaders()
    return trainer, generator, validation


def test_the_batch_carries_one_whole_image_and_a_mask(make_trainer):
    _, generator, validation = loaded(make_trainer)
    for _ in range(5):
        batch = next(generator)
        assert batch["data"].shape == (2, 4, 16, 16, 16)
        assert batch["modality_mask"].shape == (2, 4)
        assert batch["modality_mask"].any(dim=1).all()
        assert (batch["data"].abs().amax(dim=(2, 3, 4)) > 0).all(), "the teacher's patch must be whole"
        tensors = {k for k in batch if isinstance(batch[k], torch.Tensor)}
        assert tensors == {"data", "modality_mask", "modality_available"}
        assert batch["modality_available"].dtype == torch.bool
        assert batch["modality_available"].all()
    batch = next(validation)
    assert "modality_mask" not in batch
    assert batch["modality_available"].tolist() == [[True] * 4] * 2


def test_the_batch_says_what_the_case_of_each_sample_has(make_trainer):
    extra = {"mstkd": {"incomplete_cases": {"case_0": ["t1c", "t2f"], "case_3": ["t1n"]}}}
    _, generator, validation = loaded(make_trainer, extra=extra)
    expected = {"case_0": [True, False, True, False], "case_3": [False, True, True, True]}
    seen = set()
    for _ in range(8):
        batch = next(generator)
        for key, available, mask in zip(
            batch["keys"], batch["modality_available"], batch["modality_mask"], strict=True
        ):
            assert available.tolist() == expected.get(key, [True] * 4)
            assert not mask[~available].any()
            seen.add(key)
    assert {"case_0"} < seen
    assert next(validation)["modality_available"].tolist() == [expected["case_3"]] * 2


def test_samples_of_a_batch_have_draws_of_their_own(make_trainer):
    _, generator, _ = loaded(make_trainer)
    masks = [next(generator)["modality_mask"] for _ in range(12)]
    assert any(not torch.equal(m[0], m[1]) for m in masks)


def test_incomplete_cases_keep_only_what_they_have(make_trainer):
    incomplete = {f"case_{i}": ["T1ce", "FLAIR"] for i in range(3)}
    _, generator, _ = loaded(make_trainer, extra={"mstkd": {"incomplete_cases": incomplete}})
    masks = torch.cat([next(generator)["modality_mask"] for _ in range(15)])
    assert not masks[:, [1, 3]].any()
    assert masks.any(dim=1).all()
    assert {tuple(m) for m in masks.int().tolist()} == {(1, 0, 0, 0), (0, 0, 1, 0), (1, 0, 1, 0)}


def test_the_sampler_of_the_settings_is_used(make_trainer):
    settings = {"sampler": "weights", "subset_weights": {"t2f": 1}}
    _, generator, _ = loaded(make_trainer, settings=settings)
    for _ in range(4):
        np.testing.assert_array_equal(next(generator)["modality_mask"], [[0, 0, 0, 1]] * 2)


def test_what_a_case_lacks_is_zero_for_everybody_after_augmentation(make_trainer):
    incomplete = {f"case_{i}": ["t1c", "t2f"] for i in range(4)}
    _, generator, validation = loaded(make_trainer, extra={"mstkd": {"incomplete_cases": incomplete}})
    for source in (generator, validation):
        for _ in range(4):
            data = next(source)["data"]
            assert not data[:, [1, 3]].any(), "the placeholder's channels, in whose place noise was put here"
            assert data[:, [0, 2]].any()
