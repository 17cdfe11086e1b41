"""What a file name says: whose image it is, and of which modality.

The last word counts (``CASE_t1ce``). What preprocessing tools write behind it (``_bet``, ``_n4``, ``_0.7mm``)
is looked past. A name that can be read in two ways has a problem instead of a modality.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nnunetv2_mstkd.datasets.bids import parse_bids
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

SEGMENTATION_NAMES = frozenset({"seg", "segm", "segmentation", "segmentations", "dseg", "msk"})
SEGMENTATION = "seg"

_SEPARATORS = "-_. "
# What tools leave behind the sequence; none of it says that the file is something else than an image.
_WORDS = """
    bet hdbet brain ss skull skullstrip skullstripped strip stripped unstripped noskull masked defaced deface
    reg registered coreg coregistered aligned rigid affine warped
    resampled resample iso isotropic crop cropped reoriented reorient ras lps rai
    n3 n4 n4itk bias biascorr biascorrected bfc corrected corr restore denoised denoise
    norm normed normalized normalised zscore
    mni mni152 sri sri24 atlas space native acpc talairach brats
    raw orig original preproc preprocessed processed final r2s to in
"""
_LEFT_BEHIND = re.compile(
    rf"[{_SEPARATORS}](?:"
    r"(?:space|desc|res)-(?!\w*(?:mask|seg))[a-z0-9]+"
    r"|\d+(?:[.p]\d+)?(?:x\d+(?:[.p]\d+)?)*mm3?|\d+x\d+x\d+"
    rf"|{'|'.join(sorted(_WORDS.split(), key=len, reverse=True))}"
    r")$",
    re.IGNORECASE,
)
# Masks of the brain, which skull strippers write beside their images: neither a sequence nor a tumour.
_BRAIN_MASK = re.compile(
    rf"(?:^|[{_SEPARATORS}])(?:brain|bet|hdbet|parenchyma|tissue|ss)"
    rf"[{_SEPARATORS}]?(?:mask|seg|segmentation)$",
    re.IGNORECASE,
)
# FLAIR_to_T1 is a FLAIR, and ADC_to_T1 no T1: what was moved decides.
_ONTO = frozenset({"to", "in", "on", "onto", "into", "reg2"})
_MAYBE_ONTO = frozenset({"2", "space"})  # or a number, or a sequence's own name: P_2_T1, P_space_T1
_MAYBE_BOTH = frozenset({"reg", "coreg", "registered", "aligned"})
_WITHOUT = frozenset({"pre", "before", "no", "non", "not", "without", "wo", "un"})
_WITH = frozenset({"post", "after", "with"})
_MARK = re.compile("|".join(sorted(_WITHOUT | _WITH, key=len, reverse=True)), re.IGNORECASE)
# "contrast" with the words that belong to it: pre_contrast, non-enhanced, postgad.
_CONTRAST = re.compile(
    rf"(?:^|(?<=[{_SEPARATORS}]))"
    rf"(?P<marks>(?:(?:{_MARK.pattern}|and)[{_SEPARATORS}]?)*)(?P<agent>contrast|enhanced|gadolinium|gado?|gd)$",
    re.IGNORECASE,
)
_MAYBE_AFTER_CONTRAST = frozenset({"ce", "gd", "gad", "gado", "post", "km"})  # or a patient's initials


@dataclass(frozen=True)
class Reading:
    """What a name says.

    Attributes:
        prefix: the part that names the case, without the separator.
        kind: a modality, ``"seg"``, or None.
        aside: why the file is none of the two and not needed, e.g. ``"brain mask"``.
        problem: why the name cannot be understood, where it can be read in more than one way.
        shorter: the other way to read an ending of two words: ``P_T2_FLAIR`` is the T2-FLAIR of P, or the
            FLAIR of P at time T2.
        standard: the prefix is an identifier by a standard (BIDS): it names a case whatever the folder is.
    """

    prefix: str
    kind: str | None = None
    aside: str | None = None
    problem: str | None = None
    shorter: Reading | None = None
    standard: bool = False


def read_name(stem: str, modalities: Sequence[str]) -> Reading:
    """Read a file name without its ending.

    Args:
        modalities: those that are looked for.
    """
    for text in _looked_past(stem):
        if _BRAIN_MASK.search(text):
            return Reading(stem, aside="brain mask")
        standard = parse_bids(text)
        if standard is not None:
            kind, aside, problem = standard.read(modalities, SEGMENTATION_NAMES)
            if kind or aside or problem:
                return Reading(standard.case, kind, aside, problem, standard=True)
        prefix, kind = split_name(text, modalities)
        if kind is not None:
            return _settled(text, prefix, kind, modalities, looked_past=text != stem)
    return Reading(stem)


def _looked_past(stem: str) -> Iterator[str]:
    """The name, and the name without its last word for as long as that word is one of a tool's."""
    yield stem
    while (shorter := _LEFT_BEHIND.sub("", stem)) != stem and shorter.strip(_SEPARATORS):
        stem = shorter
        yield stem


def split_name(stem: str, modalities: Sequence[str]) -> tuple[str, str | None]:
    """Split ``"BraTS20_Training_001_t1ce"`` into the case's part and what the file is.

    Returns:
        (case part without the separator, modality or ``"seg"``); the second is None where no ending of the
        name is known. The longest known ending wins: ``x_t2_flair`` is FLAIR.
    """
    return next(_endings(stem, modalities), (stem, None))


def _endings(stem: str, modalities: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every known ending, the longest first."""
    starts = [0, *(i + 1 for i, letter in enumerate(stem) if letter in _SEPARATORS)]
    for start in starts:
        text = stem[start:]
        if not text.strip(_SEPARATORS):
            continue
        prefix = stem[:start].rstrip(_SEPARATORS)
        if text.lower() in SEGMENTATION_NAMES:
            yield prefix, SEGMENTATION
            continue
        try:
            yield prefix, resolve(text, modalities)
        except MSTKDError:
            continue


def _settled(text: str, prefix: str, kind: str, modalities: Sequence[str], *, looked_past: bool) -> Reading:
    """The reading of a known ending, after a look at the words before it."""
    if kind == SEGMENTATION:
        return Reading(prefix, kind)
    before, word = _last_word(prefix)
    if word in _ONTO and before:
        return read_name(before, modalities)
    if word in _MAYBE_ONTO | _MAYBE_BOTH and before:
        moved = read_name(before, modalities)
        if moved.aside or (moved.kind and moved.kind != kind):
            if moved.aside or word in _MAYBE_ONTO:
                return moved
            return Reading(prefix, problem=f"it says both {moved.kind} and {kind}")
    if looked_past and split_name(prefix, modalities)[1] in set(modalities) - {kind}:
        return Reading(prefix, problem=f"it says both {split_name(prefix, modalities)[1]} and {kind}")
    if kind in ("t1n", "t1c") and (of_contrast := _by_contrast(prefix, kind, modalities)):
        return of_contrast
    if kind == "t1n" and word in _MAYBE_AFTER_CONTRAST:
        return Reading(prefix, problem=f"with '{word}' before it, T1 may be before or after contrast")
    others = [ending for ending in _endings(text, modalities) if ending != (prefix, kind)]
    return Reading(prefix, kind, shorter=Reading(*others[0]) if others else None)


def _by_contrast(prefix: str, kind: str, modalities: Sequence[str]) -> Reading | None:
    """The reading of a T1 before which something is said of contrast; those words name no case."""
    said = _CONTRAST.search(prefix)
    if said is None or (not said["marks"] and said["agent"].lower() in _MAYBE_AFTER_CONTRAST):
        return None
    rest = prefix[: said.start()].rstrip(_SEPARATORS)
    marks = {mark.lower() for mark in _MARK.findall(said["marks"])}
    without = bool(marks & _WITHOUT)
    if without and (marks & _WITH or kind == "t1c"):
        return Reading(prefix, problem="it says both before and after contrast")
    if kind == "t1c":  # what is said twice may belong to the case: P_contrast_t1c beside P_contrast_t2
        return None
    if without or "t1c" in modalities:
        return Reading(rest, "t1n" if without else "t1c")
    return Reading(rest, aside="another sequence (T1 after contrast)")


def _last_word(prefix: str) -> tuple[str, str]:
    """``"x_T1_to"`` → ``("x_T1", "to")``."""
    *_, word = re.split(f"[{_SEPARATORS}]", prefix)
    return prefix[: len(prefix) - len(word)].rstrip(_SEPARATORS), word.lower()
