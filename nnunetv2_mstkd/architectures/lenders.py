"""Which present modality stands in for an absent one: lists of lenders, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

# DeMoSeg's (BIBM 2024; released code 73cd4bb): first the contrast that shows most alike.
_BRATS = {
    "t1n": ("t1c", "t2w", "t2f"),
    "t1c": ("t1n", "t2f", "t2w"),
    "t2w": ("t2f", "t1n", "t1c"),
    "t2f": ("t2w", "t1c", "t1n"),
}


def lenders_by_name(
    modalities: Sequence[str], stated: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """For each modality those that lend to it, the best first.

    Args:
        modalities: names in channel order.
        stated: for some of them, in the place of the default; names as in :func:`resolve`.

    Returns:
        In channel order. The BRATS sequences have the default list of DeMoSeg, as far as its members are
        there; any other modality that is not stated has an empty list: all lend to it alike.

    Raises:
        MSTKDError: a name is unknown, or a modality lends to itself or twice.
    """
    lists = {name: [k for k in _BRATS.get(name, ()) if k in modalities] for name in modalities}
    for name, given in (stated or {}).items():
        borrower = resolve(name, modalities)
        members = [resolve(lender, modalities) for lender in given]
        if borrower in members or len(set(members)) < len(members):
            raise MSTKDError(
                f"lenders of {borrower} are {', '.join(members)} (setting 'lenders' of the plans); name each"
                " other modality once at most"
            )
        lists[borrower] = members
    return lists


def lender_table(modalities: Sequence[str], lenders: Mapping[str, Sequence[str]]) -> Tensor:
    """Channels (M, M) that a modality's features come from: its own first, then its lenders', the best first.

    Args:
        modalities: M names in channel order.
        lenders: of :func:`lenders_by_name`; whoever is not in a list follows in channel order.
    """
    rows = []
    for name in modalities:
        listed = [name, *lenders[name]]
        rows.append([modalities.index(k) for k in (*listed, *(m for m in modalities if m not in listed))])
    return torch.tensor(rows)


def best_present(table: Tensor, present: Tensor) -> Tensor:
    """For each modality the channel (B, M) that is taken in its place: its own, if it is there.

    Args:
        table: of :func:`lender_table`, (M, M).
        present: (B, M) bool, one at least per sample.
    """
    first = present[:, table].int().argmax(2)  # the first of several that are there
    return table.expand(len(present), -1, -1).gather(2, first[..., None]).squeeze(2)
