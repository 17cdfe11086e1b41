"""Who lends features to whom, by name."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_mstkd.architectures.lenders import best_present, lender_table, lenders_by_name
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import all_subsets

# DeMoSeg's order of T1, T1c, T2, FLAIR, with the partners of rank 1, 2 and 3.
PARTNERS = {
    "t1n": ["t1c", "t2w", "t2f"],
    "t1c": ["t1n", "t2f", "t2w"],
    "t2w": ["t2f", "t1n", "t1c"],
    "t2f": ["t2w", "t1c", "t1n"],
}


@pytest.mark.parametrize("modalities", [("t1n", "t1c", "t2w", "t2f"), ("t2f", "t1c", "t2w", "t1n")], ids=str)
def test_every_subset_borrows_from_the_partner_of_the_lowest_rank_that_is_there(modalities):
    subsets = all_subsets(modalities)
    present = torch.tensor([[m in subset for m in modalities] for subset in subsets])
    found = best_present(lender_table(modalities, lenders_by_name(modalities)), present)
    for subset, channels in zip(subsets, found.tolist(), strict=True):
        lenders = dict(zip(modalities, (modalities[channel] for channel in channels), strict=True))
        for borrower, lender in lenders.items():
            wanted = [borrower, *PARTNERS[borrower]]
            assert lender == next(name for name in wanted if name in subset), (borrower, subset)


def test_partners_are_each_others():
    """Of every rank: a partner's partner is oneself."""
    lists = lenders_by_name(tuple(PARTNERS))
    assert lists == PARTNERS
    for name, partners in lists.items():
        assert all(lists[partner][rank] == name for rank, partner in enumerate(partners))


def test_stated_lists_go_before_the_default_and_other_names_have_none():
    modalities = ("t1n", "ADC", "t2f", "CT")
    assert lenders_by_name(modalities) == {"t1n": ["t2f"], "ADC": [], "t2f": ["t1n"], "CT": []}
    lists = lenders_by_name(modalities, {"flair": ["adc"]})
    assert lists["t2f"] == ["ADC"]
    # Whoever is in no list comes last, in channel order.
    assert lender_table(modalities, lists).tolist() == [
        [0, 2, 1, 3],
        [1, 0, 2, 3],
        [2, 1, 0, 3],
        [3, 0, 1, 2],
    ]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"pet": ["t1n"]}, "unknown modality 'pet'; this data set has t1n, t1c"),
        ({"t1n": ["pet"]}, "unknown modality 'pet'"),
        ({"t1n": ["T1"]}, "lenders of t1n are t1n .* name each other modality once"),
        ({"t1n": ["t1c", "T1Gd"]}, "lenders of t1n are t1c, t1c "),
    ],
)
def test_what_cannot_be(stated, message):
    with pytest.raises(MSTKDError, match=message):
        lenders_by_name(("t1n", "t1c"), stated)


def test_one_modality():
    table = lender_table(("CT",), lenders_by_name(("CT",)))
    assert best_present(table, torch.ones(2, 1, dtype=torch.bool)).tolist() == [[0], [0]]
