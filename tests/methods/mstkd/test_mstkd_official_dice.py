import pytest
import torch
from fake_taps import randn

from nnunetv2_mstkd.methods.mstkd.official_dice import (
    binary_target,
    head_dice_losses,
    official_dice_losses,
    official_student_dice,
)


def labels(*shape, above=4, seed=0):
    return torch.randint(0, above, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(5, 6), (5, 6, 7)])
def test_labels_become_one_channel_per_head(size):
    target = labels(2, 1, *size)
    binary, counted = binary_target(target, 4, regions=False)
    assert torch.equal(binary.int().argmax(1, keepdim=True), target)
    assert torch.equal(binary.sum(1), torch.ones(2, *size, dtype=torch.long))
    assert counted.all()


def test_ignored_voxels_do_not_count():
    """nnU-Net's ignore label is above the last head; for regions it is one more channel."""
    logits = randn(2, 3, 6, 6, seed=1)
    target = labels(2, 1, 6, 6, above=4)
    ignore = target == 3
    regions = torch.cat((target == 0, target == 1, target == 2, ignore), 1)
    losses = head_dice_losses(logits=logits, target=target, regions=False)
    torch.testing.assert_close(head_dice_losses(logits=logits, target=regions, regions=True), losses)
    changed = torch.where(ignore, torch.full_like(logits, 50.0), logits)
    torch.testing.assert_close(head_dice_losses(logits=changed, target=target, regions=False), losses)
    kept = (~ignore).expand_as(logits)
    by_hand = official_dice_losses(logits.sigmoid() * kept, regions[:, :3].float())
    torch.testing.assert_close(losses, by_hand)


def test_the_first_target_of_deep_supervision_counts():
    logits, target = randn(1, 3, 6, 6), labels(1, 1, 6, 6, above=3)
    listed = head_dice_losses(logits=logits, target=[target, target[..., ::2]], regions=False)
    assert torch.equal(listed, head_dice_losses(logits=logits, target=target, regions=False))


def test_one_region_head():
    target = (labels(1, 1, 6, 6) > 1).float()
    loss = head_dice_losses(logits=200 * target - 100, target=target, regions=True)
    assert loss.shape == (1,)
    assert loss < 1e-5


@pytest.mark.parametrize("background", [0, 2, -1])
def test_background_is_the_teachers(background):
    student, teacher = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([10.0, 20.0, 40.0])
    expected = student.clone()
    expected[background] = teacher[background]
    assert official_student_dice(student, teacher, background) == expected.sum()
