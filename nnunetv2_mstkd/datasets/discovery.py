"""Which cases a folder holds, and which file is which modality.

Three layouts are understood, and told apart by their file names::

    cases/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ...   one folder per case, any known alias
    BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ...         one such case
    imagesTs/case_a_0000.nii.gz, case_a_0003.nii.gz ...            nnU-Net's, by channel number

Any file of a case may be absent. What cannot be understood is reported per case, never dropped.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_mstkd.datasets.nifti import NIFTI_ENDINGS
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

SEGMENTATION_NAMES = frozenset({"seg", "segm", "segmentation"})

_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
# Case ids of the challenges. Where files carry one, it names the case even in a renamed folder.
_CHALLENGE_ID = re.compile(r"(brats|fets)\D*\d", re.IGNORECASE)
_SEPARATORS = "-_. "

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One examination: a name, and a file for each modality that is there."""

    name: str
    images: dict[str, Path]
    segmentation: Path | None = None


@dataclass(frozen=True)
class Discovery:
    """What a folder holds: usable cases by name, and for each bad case one line that says why."""

    cases: tuple[Case, ...]
    problems: dict[str, str]


@dataclass
class _Draft:
    """A case while its files are collected."""

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    segmentations: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)


def discover(source: Path, modalities: Sequence[str], *, file_ending: str = ".nii.gz") -> Discovery:
    """Find the cases in ``source``.

    Args:
        source: a folder in one of the layouts above.
        modalities: the modalities that are looked for, in the channel order of nnU-Net's file numbers.
        file_ending: nnU-Net's file ending of the data set; ``.nii`` and ``.nii.gz`` are always accepted.

    Returns:
        Cases in order of their names, images in the order of ``modalities``.

    Raises:
        MSTKDError: no such folder, or nothing in it looks like a case.
    """
    if not source.exists():
        raise MSTKDError(f"input not found: {source}")
    if not source.is_dir():
        raise MSTKDError(f"{source} is a file; give the folder that holds the case or the cases")
    endings = tuple(dict.fromkeys((*NIFTI_ENDINGS, file_ending)))
    volumes = _volumes(source, endings)
    folders = [p for p in _entries(source) if p.is_dir()]
    if volumes:
        if folders:
            logger.warning("%s holds images; its %d sub-folders are not searched", source, len(folders))
        if any(_CHANNEL_FILE.fullmatch(stem) for stem in volumes.values()):
            drafts = _numbered_cases(volumes, modalities)
        else:
            drafts = _one_case_or_flat(source.resolve().name, volumes, modalities)
        return _finish(drafts.items(), modalities)
    found = {folder: _volumes(folder, endings) for folder in folders}
    if not any(found.values()):
        raise MSTKDError(
            f"no cases in {source}: expected folders with files like CASE-t1c.nii.gz, or files like"
            f" CASE_0000{file_ending}"
        )
    return _finish((_folder_case(f.name, found[f], modalities) for f in folders), modalities)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files (archives made on a Mac are full of them)."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise MSTKDError(f"cannot list {folder}: {error.strerror or error}") from None


def _volumes(folder: Path, endings: tuple[str, ...]) -> dict[Path, str]:
    """Image file → its name without the ending. A broken link counts: reading it will say so."""
    stems = {}
    for path in _entries(folder):
        ending = next((e for e in endings if path.name.endswith(e)), None)
        if ending and not path.is_dir():
            stems[path] = path.name[: -len(ending)]
    return stems


def split_name(stem: str, modalities: Sequence[str]) -> tuple[str, str | None]:
    """Split ``"BraTS20_Training_001_t1ce"`` into the case's part and what the file is.

    Returns:
        (case part without the separator, modality or ``"seg"``); the second is None where no ending of the
        name is known. The longest known ending wins: ``x_t2_flair`` is FLAIR.
    """
    starts = [0, *(i + 1 for i, letter in enumerate(stem) if letter in _SEPARATORS)]
    for start in starts:
        text = stem[start:]
        if not text.strip(_SEPARATORS):
            continue
        prefix = stem[:start].rstrip(_SEPARATORS)
        if text.lower() in SEGMENTATION_NAMES:
            return prefix, "seg"
        try:
            return prefix, resolve(text, modalities)
        except MSTKDError:
            continue
    return stem, None


def _add_named(draft: _Draft, path: Path, prefix: str, kind: str | None, modalities: Sequence[str]) -> None:
    if kind is None:
        known = ", ".join(modalities)
        draft.problems.append(f"unknown modality in the name of {path.name}; known are {known} (and seg)")
    elif kind == "seg":
        draft.segmentations.append(path)
    else:
        draft.files[kind].append(path)
        draft.prefixes.add(prefix)


def _folder_case(folder: str, volumes: dict[Path, str], modalities: Sequence[str]) -> tuple[str, _Draft]:
    """The case in a folder of its own."""
    draft = _Draft()
    for path, stem in volumes.items():
        prefix, kind = split_name(stem, modalities)
        _add_named(draft, path, prefix, kind, modalities)
    if len(draft.prefixes) > 1:
        names = ", ".join(sorted(prefix or "(no name)" for prefix in draft.prefixes))
        draft.problems.append(f"the folder mixes files of several cases: {names}")
    prefix = next(iter(draft.prefixes), "")
    return (prefix if len(draft.prefixes) == 1 and _CHALLENGE_ID.match(prefix) else folder), draft


def _one_case_or_flat(folder: str, volumes: dict[Path, str], modalities: Sequence[str]) -> dict[str, _Draft]:
    """Named files without sub-folders: one case, or several told apart by the first part of the name."""
    split = {path: split_name(stem, modalities) for path, stem in volumes.items()}
    prefixes = {prefix for prefix, kind in split.values() if kind not in (None, "seg")}
    if len(prefixes) <= 1:
        return dict([_folder_case(folder, volumes, modalities)])
    drafts: dict[str, _Draft] = defaultdict(_Draft)
    for path, (prefix, kind) in split.items():
        # A name with an unknown ending belongs to the case whose name it begins with.
        begins = [p for p in prefixes if prefix == p or (p and re.match(re.escape(p) + r"[-_. ]", prefix))]
        owner = max(begins, key=len, default=prefix)
        _add_named(drafts[owner or folder], path, prefix, kind, modalities)
    return drafts


def _numbered_cases(volumes: dict[Path, str], modalities: Sequence[str]) -> dict[str, _Draft]:
    """nnU-Net's layout: ``CASE_0000`` is the first modality."""
    drafts: dict[str, _Draft] = defaultdict(_Draft)
    for path, stem in volumes.items():
        match = _CHANNEL_FILE.fullmatch(stem)
        if match is None:
            drafts[stem].problems.append(f"{path.name} carries no channel number like _0000")
            continue
        draft, channel = drafts[match["case"]], int(match["channel"])
        if channel < len(modalities):
            draft.files[modalities[channel]].append(path)
        else:
            numbers = ", ".join(f"_{i:04d} {name}" for i, name in enumerate(modalities))
            draft.problems.append(f"unknown channel _{channel:04d} in {path.name}; known are {numbers}")
    return drafts


def _finish(drafts: Iterable[tuple[str, _Draft]], modalities: Sequence[str]) -> Discovery:
    """Turn drafts into cases, and what is wrong with them into one line each."""
    by_name: dict[str, list[_Draft]] = defaultdict(list)
    for name, draft in drafts:
        by_name[name].append(draft)
    cases, problems = [], {}
    for name, (draft, *copies) in sorted(by_name.items()):
        reasons = _reasons(draft)
        if copies:
            folders = sorted({p.parent.name for d in (draft, *copies) for f in d.files.values() for p in f})
            reasons = [f"duplicate case id, found in the folders {', '.join(folders)}; keep one"]
        if not name.isprintable():
            name, reasons = repr(name), ["a line break or the like is in the name; rename the files"]
        if reasons:
            problems[name] = "; ".join(reasons)
            continue
        images = {m: draft.files[m][0] for m in modalities if m in draft.files}
        cases.append(Case(name, images, next(iter(draft.segmentations), None)))
    return Discovery(tuple(cases), problems)


def _reasons(draft: _Draft) -> list[str]:
    reasons = list(draft.problems)
    several = {name: paths for name, paths in draft.files.items() if len(paths) > 1}
    if len(draft.segmentations) > 1:
        several["the segmentation"] = draft.segmentations
    for name, paths in several.items():
        reasons.append(f"{len(paths)} files for {name}: {', '.join(p.name for p in paths)}; keep one")
    if not draft.files and not draft.problems:
        reasons.append("no modality at all: no image file that can be used")
    return reasons
