"""Whether what reads as several incomplete cases is one, whose files carry no common name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from nnunetv2_mstkd.datasets.bids import is_bids_case
from nnunetv2_mstkd.datasets.cases import Draft

# A case's name, and what was found of it.
NamedDraft = tuple[str, Draft]
# Case ids of the challenges. Where files carry one, it names the case even in a renamed folder.
_CHALLENGE_ID = re.compile(r"(brats|fets)\D*\d", re.IGNORECASE)


def doubt_of(drafts: Sequence[NamedDraft], source: Path, modalities: Sequence[str]) -> str | None:
    """Why several cases are likely one, and what to do: no two have the same sequence; else ``None``."""
    if not _complete_each_other(drafts, modalities):
        return None
    parts = {name: [m for m in modalities if m in draft.files] for name, draft in drafts if draft.files}
    shown = ", ".join(f"{name}: {'+'.join(found)}" for name, found in sorted(parts.items()))
    return (
        f"{source} reads as {len(parts)} cases of which no two have the same sequence ({shown}); it"
        " is likely one case: give --one-case if so; if not, list the files in a table (--table FILE)"
    )


def joined(drafts: list[NamedDraft], name: str, modalities: Sequence[str]) -> list[NamedDraft]:
    """Parts of one case (folders ``T1/``, ``FLAIR/``) as one of that name; anything else as it is."""
    if not _complete_each_other(drafts, modalities):
        return drafts
    whole = Draft()
    for _, draft in drafts:
        for kind, paths in draft.files.items():
            whole.files[kind] += paths
        whole.segmentations += draft.segmentations
        whole.aside |= draft.aside
        whole.unknown += draft.unknown
        whole.problems += draft.problems
    return [(name, whole)]


def is_identifier(name: str) -> bool:
    """Whether a name is an examination's identifier by some convention."""
    return _CHALLENGE_ID.match(name) is not None or is_bids_case(name)


def _complete_each_other(drafts: Sequence[NamedDraft], modalities: Sequence[str]) -> bool:
    parts = [(name, draft) for name, draft in drafts if draft.files and not draft.problems]
    sets = [set(draft.files) for _, draft in parts]
    if len(parts) < 2 or any(is_identifier(name) for name, _ in parts):
        return False
    if any(a & b for a, b in combinations(sets, 2)) or sum(bool(d.segmentations) for _, d in parts) > 1:
        return False
    return all(len(s) == 1 for s in sets) or set().union(*sets) == set(modalities)
