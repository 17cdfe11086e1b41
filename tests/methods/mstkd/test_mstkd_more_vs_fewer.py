"""The hinge on nested pairs, against the same written out sample by sample with nnU-Net's own losses."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.nn import functional

from nnunetv2_mstkd.methods.mstkd.more_vs_fewer import more_vs_fewer_loss

SIZE = (6, 5, 4)


def logits(seed: int, heads: int = 3, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(2, heads, *SIZE, generator=torch.Generator().manual_seed(seed))


def target(regions: bool) -> torch.Tensor:
    """In the second sample, one class or region is not there."""
    draw = torch.Generator().manual_seed(9)
    if regions:
        truth = (torch.rand(2, 3, *SIZE, generator=draw) > 0.6).float()
        truth[1, 2] = 0
        return truth
    labels = torch.randint(0, 3, (2, 1, *SIZE), generator=draw).float()
    labels[1][labels[1] == 2] = 0
    return labels


def by_hand(richer, poorer, truth, regions) -> torch.Tensor:
    one_hot = truth if regions else functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1).float()
    nnunet_dice = MemoryEfficientSoftDiceLoss(None, batch_dice=False, do_bg=True, smooth=1e-5)
    dice, entropy = [], []
    for i in range(2):
        for head in range(0 if regions else 1, 3):
            if not one_hot[i, head].any():
                continue
            both = [x.sigmoid() if regions else x.softmax(1) for x in (richer, poorer)]
            more, fewer = (nnunet_dice(p[i, head][None, None], one_hot[i, head][None, None]) for p in both)
            dice.append((more - fewer).clamp_min(0))
            if regions:
                more, fewer = (
                    functional.binary_cross_entropy_with_logits(x[i, head], one_hot[i, head])
                    for x in (richer, poorer)
                )
                entropy.append((more - fewer).clamp_min(0))
        if not regions:
            more, fewer = (
                functional.cross_entropy(x[i : i + 1], truth[i : i + 1, 0].long()) for x in (richer, poorer)
            )
            entropy.append((more - fewer).clamp_min(0))
    assert len(dice) == (5 if regions else 3)
    return torch.stack(dice).mean() + torch.stack(entropy).mean()


@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
def test_is_the_hinge_by_hand(regions):
    richer, poorer, truth = logits(1, scale=3), logits(2), target(regions)
    found = more_vs_fewer_loss(richer=richer, poorer=poorer, target=truth, regions=regions)
    assert found > 0
    torch.testing.assert_close(found, by_hand(richer, poorer, truth, regions))


@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
def test_pulls_the_richer_side_alone_and_only_where_it_is_worse(regions):
    richer, poorer = (logits(seed).requires_grad_() for seed in (1, 2))
    truth = target(regions)
    good = truth * 8 - 4 if regions else functional.one_hot(truth[:, 0].long(), 3).movedim(-1, 1) * 8.0
    more_vs_fewer_loss(richer=richer, poorer=good, target=truth, regions=regions).backward()
    assert richer.grad.abs().sum() > 0
    loss = more_vs_fewer_loss(richer=richer, poorer=poorer, target=truth, regions=regions)
    loss.backward()
    assert poorer.grad is None
    better = good.clone().requires_grad_()
    loss = more_vs_fewer_loss(richer=better, poorer=poorer, target=truth, regions=regions)
    loss.backward()
    assert loss == 0
    assert not better.grad.any()


@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
def test_equal_members_cost_nothing_and_have_no_gradient(regions):
    same = logits(1).requires_grad_()
    loss = more_vs_fewer_loss(richer=same, poorer=same, target=target(regions), regions=regions)
    loss.backward()
    assert loss == 0
    assert not same.grad.any()


@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
def test_ignored_voxels_do_not_count(regions):
    """As if they were not in the patch."""
    richer, poorer, truth = logits(1, scale=3), logits(2), target(regions)
    cut = {"richer": richer[:, :, 2:], "poorer": poorer[:, :, 2:], "target": truth[:, :, 2:]}
    expected = more_vs_fewer_loss(**cut, regions=regions)
    if regions:
        ignored = torch.zeros_like(truth[:, :1])
        ignored[:, :, :2] = 1
        truth = torch.cat((truth, ignored), 1)
    else:
        truth[:, :, :2] = 3
    found = more_vs_fewer_loss(
        richer=richer, poorer=poorer, target=truth, regions=regions, ignore_label=3 if not regions else 7
    )
    torch.testing.assert_close(found, expected)


def test_a_patch_without_foreground_is_finite():
    empty = torch.zeros(2, 1, *SIZE)
    loss = more_vs_fewer_loss(richer=logits(1), poorer=logits(2), target=empty, regions=False)
    assert loss.isfinite()
    regions = torch.zeros(2, 3, *SIZE)
    assert more_vs_fewer_loss(richer=logits(1), poorer=logits(2), target=regions, regions=True) == 0
