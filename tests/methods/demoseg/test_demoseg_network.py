"""DeMoSeg's network and loss as its description has them.

Numbers of the authors' code exist for none of it: what is tested is what the description states.
"""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.expression import released_expression_loss
from nnunetv2_mstkd.methods.demoseg import DeMoSeg, released
from nnunetv2_mstkd.methods.demoseg.blocks import ShuffledBlock
from nnunetv2_mstkd.methods.demoseg.network import RELEASED_MODALITIES, assemble

PATCH = (16, 16, 16)


def small(channels: int = 4, **settings) -> DeMoSeg:
    torch.manual_seed(0)
    names = RELEASED_MODALITIES if channels == 4 else None
    settings = {"base_features": 8, "strides": [[1] * 3, [2] * 3, [2] * 3], "modalities": names, **settings}
    network = DeMoSeg(channels, 3, patch_size=PATCH, **settings)
    for parameter in network.parameters():  # norms too: an absent modality's stem is not silent then
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1, 0.2)
    return network


def masked(present: str) -> torch.Tensor:
    x = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    for channel, digit in enumerate(present):
        if digit == "0":
            x[:, channel] = 0
    return x


def test_size_is_that_of_the_description():
    with torch.device("meta"):
        network = released()
    assert sum(p.numel() for p in network.parameters()) == 31_527_192
    with FlopCounterMode(display=False) as counter:
        network.decoder.deep_supervision = True
        outputs = run_on_meta(network, (1, 4, 128, 128, 128))
    assert counter.get_total_flops() / 2e9 == pytest.approx(656.8, abs=0.05)
    assert [tuple(out.shape) for out in outputs] == [(1, 4, *[2**n] * 3) for n in (7, 6, 5, 4, 3)]


@pytest.mark.parametrize("present", ["0111", "1010", "0001"])
def test_an_absent_modality_has_no_influence_whatever_its_stem_makes_of_it(present):
    network, x = small(), masked(present)
    expected = network(x)
    for channel, digit in enumerate(present):
        if digit == "0":
            for parameter in network.stems[channel].parameters():
                nn.init.normal_(parameter, 2, 5)
    found = network(x)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    silent = [all(not p.grad.any() for p in stem.parameters() if p.requires_grad) for stem in network.stems]
    assert silent == [digit == "0" for digit in present]


def first_stage(network: DeMoSeg, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The first stage (B, M, c, ...), and each stem's blocks (B, M, c, ...)."""
    blocks, assembled = [], []
    hooks = [stem.register_forward_hook(lambda *of: blocks.append(of[2][1])) for stem in network.stems]
    hooks.append(network.stages[0].register_forward_hook(lambda *of: assembled.append(of[1][0])))
    network(x)
    for hook in hooks:
        hook.remove()
    return assembled[0].unflatten(1, (len(network.stems), -1)), blocks


def test_with_all_modalities_there_nothing_is_borrowed():
    first, blocks = first_stage(small(), masked("1111"))
    assert all(torch.equal(first[:, m], blocks[m][:, m]) for m in range(4))


def test_seats_of_absent_modalities_are_lent():
    first, blocks = first_stage(small(), masked("0101"))
    # T1 from T1c (rank 1), T2 from FLAIR (rank 1).
    for m, lender in enumerate([1, 1, 3, 3]):
        assert torch.equal(first[:, m], blocks[lender][:, m])
    first, blocks = first_stage(small(lenders={"t1n": ["flair"]}), masked("0101"))
    assert torch.equal(first[:, 0], blocks[3][:, 0])


def test_every_sample_has_lenders_of_its_own():
    blocks = {k: torch.full((2, 3, 1, 2, 2), float(k)) for k in range(3)}
    found = assemble(blocks, torch.tensor([[0, 1, 2], [2, 2, 0]]))
    assert found[:, :, 0, 0].tolist() == [[0, 1, 2], [2, 2, 0]]


@torch.no_grad()
def test_stems_that_nobody_needs_do_not_run_without_gradients():
    network, x = small().eval(), masked("0101")
    with torch.enable_grad():
        expected = network(x).detach()
    ran = []
    for channel, stem in enumerate(network.stems):
        stem.register_forward_hook(lambda *of, channel=channel: ran.append(channel))
    torch.testing.assert_close(network(x), expected)
    assert ran == [1, 3]


def test_channels_are_rounded_up_to_a_block_for_every_modality():
    network = small(channels=3)
    taps = network(torch.randn(1, 3, *PATCH), return_taps=True)
    assert [tuple(tap.shape) for tap in taps.several("expressed")] == [(1, 3, 3, *PATCH)] * 3


def test_a_shuffled_block_adds_another_channel_and_its_order_learns_nothing():
    network = small()
    block = network.stages[0][1]
    u = torch.randn(2, 16, 4, 4, 4)
    order = block.order(u)
    assert all(sorted(row) == list(range(16)) for row in order.tolist())
    assert not torch.equal(order[0], order[1])
    network(masked("1111")).sum().backward()
    assert all(p.grad is None for p in block.order.parameters())
    inside = nn.LeakyReLU(0.01)(block.norm1(block.conv(u)))
    order = block.order(inside)
    added = torch.stack([of_one + of_one[o] for of_one, o in zip(inside, order, strict=True)])
    expected = nn.LeakyReLU(0.01)(block.norm2(added))
    torch.testing.assert_close(block(u), expected)


def test_a_fixed_order_is_one_for_all_and_is_kept_in_the_weights():
    network = small(channel_order="fixed")
    orders = [m.order for m in network.modules() if isinstance(m, ShuffledBlock)]
    x = torch.randn(3, 8, 2, 2, 2)
    assert torch.equal(orders[0](x), orders[0](-x))
    assert sum(name.endswith("order.order") for name in network.state_dict()) == len(orders)
    with pytest.raises(MSTKDError, match="channel_order is 'best'; give one of released, fixed"):
        small(channel_order="best")


def test_expression_loss_is_the_released_formula_and_teaches_both_sides():
    torch.manual_seed(2)
    blocks = [torch.randn(2, 3, 4, 5, 6, requires_grad=True) for _ in range(3)]
    present = torch.tensor([[True, True, False], [True, True, True]])
    expected = sum(
        nn.KLDivLoss()(blocks[a][[i], b].log_softmax(1), blocks[b][[i], b].softmax(1))
        for i in range(2)
        for a, b in permutations(range(3), 2)
        if present[i, a] and present[i, b]
    )
    found = released_expression_loss(blocks, present)
    torch.testing.assert_close(2 * found, expected)  # a mean over the samples, the release sums
    found.backward()
    assert blocks[1].grad[0, 0].any(), "what is lent"
    assert blocks[0].grad[0, 0].any(), "what it is compared with"
    assert not blocks[2].grad[0].any(), "absent"
    assert released_expression_loss(blocks, torch.tensor([[True, False, False]] * 2)) == 0


def test_training_stores_names_and_lenders(make_trainer):
    settings = {"base_features": 4, "lenders": {"flair": ["t1"]}}
    trainer = make_trainer(methods.nnUNetTrainerDeMoSeg, settings=settings)
    trainer.initialize()
    stored = trainer.plans_manager.plans["configurations"]["tiny"]["mstkd"]
    assert stored["modalities"] == ["t1n", "t1c", "t2w", "t2f"]
    assert stored["lenders"]["t2f"] == ["t1n"]
    assert stored["lenders"]["t2w"] == ["t2f", "t1n", "t1c"]
    assert trainer.network.lenders[3].tolist() == [3, 0, 1, 2]
    assert trainer.enable_deep_supervision
    wrong = make_trainer(methods.nnUNetTrainerDeMoSeg, settings={"lenders": {"pet": []}})
    with pytest.raises(MSTKDError, match="unknown modality 'pet'; this data set has t1n, t1c, t2w, t2f"):
        wrong.initialize()
