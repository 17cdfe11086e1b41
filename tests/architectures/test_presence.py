from __future__ import annotations

import torch

from nnunetv2_mstkd.architectures.presence import presence, shown


def test_a_channel_of_zeros_is_absent():
    x = torch.randn(3, 4, 5, 6, 7)
    x[0, 1] = 0
    x[1, [0, 2, 3]] = 0
    x[1, 1] = 0
    x[1, 1, 2, 3, 4] = -1e-30  # one voxel is enough
    expected = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.equal(presence(x), expected)
    assert torch.equal(shown(x), expected)


def test_a_patch_of_background_shows_all():
    x = torch.randn(2, 3, 8, 8)
    x[1] = 0
    assert presence(x).all()
    assert shown(x).tolist() == [[True] * 3, [False] * 3]


def test_one_modality_is_always_present():
    assert presence(torch.zeros(2, 1, 4, 4)).all()
