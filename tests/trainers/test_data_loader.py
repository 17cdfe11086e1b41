import numpy as np
import torch

from nnunetv2_mstkd.trainers import nnUNetTrainerModalityDropout


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
        assert {k for k in batch if isinstance(batch[k], torch.Tensor)} == {"data", "modality_mask"}
    assert "modality_mask" not in next(validation)


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
