"""The vocabulary: names of MRI sequences, sets of them, and the order in which tables print them.

Everything in this project is keyed by modality *name*. Channel positions exist only where nnU-Net's
files need them, and are derived here from a data set's ``dataset.json``.

The four BraTS sequences have canonical names (those of BraTS 2023 and later) and every older or spoken
name is an alias. Any other channel name is a modality of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from nnunetv2_mstkd.errors import MSTKDError

Subset = frozenset[str]

BRATS_MODALITIES: tuple[str, ...] = ("t1n", "t1c", "t2w", "t2f")

_ALIASES: dict[str, tuple[str, ...]] = {
    "t1n": ("t1n", "t1", "t1w", "t1native", "t1pre", "t1nonenhanced"),
    "t1c": (
        *("t1c", "t1ce", "t1gd", "t1wce", "t1cw", "t1post", "t1contrast", "t1km", "t1wgd", "ct1"),
        *("t1+", "t1w+", "t1+c", "t1w+c", "t1+gd", "t1w+gd", "t1+ce", "t1w+ce"),
    ),
    "t2w": ("t2w", "t2"),
    "t2f": ("t2f", "flair", "fla", "t2flair", "fl", "t2wflair", "flairw"),
}
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}

# Column order of the published fifteen-column tables (MST-KDNet project page).
_PUBLISHED_ORDER: tuple[tuple[str, ...], ...] = (
    ("t2w",),
    ("t1c",),
    ("t1n",),
    ("t2f",),
    ("t1c", "t2w"),
    ("t1n", "t1c"),
    ("t2f", "t1n"),
    ("t1n", "t2w"),
    ("t2f", "t2w"),
    ("t2f", "t1c"),
    ("t2f", "t1n", "t1c"),
    ("t2f", "t1n", "t2w"),
    ("t2f", "t1c", "t2w"),
    ("t1n", "t1c", "t2w"),
    ("t2f", "t1n", "t1c", "t2w"),
)


def canonical_name(name: str) -> str:
    """Canonical spelling of a modality: ``"T1Gd"`` → ``"t1c"``, ``"ADC"`` → ``"ADC"``.

    Case, spaces, hyphens and underscores do not matter for the BraTS aliases; a name that is no alias is
    returned as it stands (stripped), because it is its own modality; what separates the names of a subset
    (``+``, ``,``) or folders (``/``) becomes a hyphen.

    Raises:
        MSTKDError: the name is empty.
    """
    stripped = name.strip()
    if not stripped:
        raise MSTKDError("a modality name is empty; give names like t1c or flair")
    return _CANONICAL.get(re.sub(r"[\s_\-.]+", "", stripped.lower()), _in_one_piece(stripped))


def _in_one_piece(name: str) -> str:
    return re.sub(r"[+,/]", "-", name)


def modalities_of(channel_names: Mapping[str, str] | Sequence[str]) -> tuple[str, ...]:
    """Modalities of a data set in channel order, each name unique.

    Args:
        channel_names: ``dataset.json``'s ``channel_names`` (``{"0": "T1", ...}``) or a sequence of names.

    Two channels whose names mean the same (``T1`` and ``t1n``) keep their own spellings; channels with
    literally the same name get nnU-Net's channel suffix (``MRI_0000``, ``MRI_0001``).

    Raises:
        MSTKDError: there are none, or the keys are no numbers.
    """
    if isinstance(channel_names, Mapping):
        try:
            raw = [str(channel_names[key]).strip() for key in sorted(channel_names, key=int)]
        except ValueError:
            keys = ", ".join(map(str, channel_names))
            raise MSTKDError(
                f'channels are numbered in dataset.json, as in {{"0": "T1"}}; here the keys are {keys}'
            ) from None
    else:
        raw = [str(name).strip() for name in channel_names]
    if not raw:
        raise MSTKDError("the data set has no channels; dataset.json needs a non-empty channel_names")
    names = [canonical_name(name) for name in raw]
    shared = {name for name, count in Counter(n.lower() for n in names).items() if count > 1}
    names = [
        _in_one_piece(own) if name.lower() in shared else name for name, own in zip(names, raw, strict=True)
    ]
    literal = {name for name, count in Counter(n.lower() for n in names).items() if count > 1}
    return tuple(f"{n}_{i:04d}" if n.lower() in literal else n for i, n in enumerate(names))


def resolve(name: str, modalities: Sequence[str]) -> str:
    """The member of ``modalities`` that ``name`` means.

    Raises:
        MSTKDError: no member has this name; the message lists those there are.
    """
    by_lower = {m.lower(): m for m in modalities}
    for candidate in (name.strip().lower(), canonical_name(name).lower()):
        if candidate in by_lower:
            return by_lower[candidate]
    raise MSTKDError(f"unknown modality '{name}'; this data set has {', '.join(modalities)}")


def parse_subset(text: str | Iterable[str], modalities: Sequence[str]) -> Subset:
    """Parse ``"t1c+flair"`` (or ``"t1c,flair"``, or a list of names) into a set of names.

    Raises:
        MSTKDError: the set is empty or names a modality that is not in ``modalities``.
    """
    parts = re.split(r"[+,]", text) if isinstance(text, str) else list(text)
    subset = frozenset(resolve(part, modalities) for part in parts if part.strip())
    if not subset:
        known = ", ".join(modalities)
        raise MSTKDError(f"the empty set of modalities is not allowed; name at least one of {known}")
    return subset


def format_subset(subset: Iterable[str], modalities: Sequence[str]) -> str:
    """Print a subset in channel order: ``{"t2f", "t1c"}`` → ``"t1c+t2f"``."""
    members = frozenset(subset)
    unknown = members.difference(modalities)
    if unknown or not members:
        what = f"unknown modality '{sorted(unknown)[0]}'" if unknown else "the empty set of modalities"
        raise MSTKDError(f"{what} cannot be printed; this data set has {', '.join(modalities)}")
    return "+".join(m for m in modalities if m in members)


def all_subsets(modalities: Sequence[str]) -> tuple[Subset, ...]:
    """All 2^C - 1 non-empty subsets in a fixed order.

    For exactly the four BraTS sequences (in any channel order) this is the column order of the published
    tables; otherwise by size, then by channel order.
    """
    if len(modalities) == len(BRATS_MODALITIES) and set(modalities) == set(BRATS_MODALITIES):
        return tuple(frozenset(names) for names in _PUBLISHED_ORDER)
    sizes = range(1, len(modalities) + 1)
    return tuple(frozenset(c) for size in sizes for c in combinations(modalities, size))


def subset_mask(subset: Iterable[str], modalities: Sequence[str]) -> tuple[bool, ...]:
    """One flag per channel, True where the channel's modality is in ``subset``."""
    members = frozenset(subset)
    return tuple(m in members for m in modalities)
