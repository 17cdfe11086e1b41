"""Cases while their files are collected, and what becomes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_mstkd.datasets.bids import subject_of


@dataclass(frozen=True)
class Case:
    """One examination: a name, and a file for each modality that is there.

    Attributes:
        aside: files that are neither (a brain mask, another BIDS sequence) → what they are taken for.
        patient: whose examination it is, where the source says so: a table's column, or a BIDS session.
    """

    name: str
    images: dict[str, Path]
    segmentation: Path | None = None
    aside: Mapping[Path, str] = field(default_factory=dict)
    patient: str | None = None


@dataclass(frozen=True)
class Discovery:
    """What a source holds.

    Attributes:
        cases: usable cases, by name.
        problems: for each bad case one line that says why.
        doubt: why the cases, taken together, are likely fewer; None where nothing speaks for that.
        unusable: what has been understood of the bad cases.
    """

    cases: tuple[Case, ...]
    problems: dict[str, str]
    doubt: str | None = None
    unusable: dict[str, Case] = field(default_factory=dict)


@dataclass
class Draft:
    """A case while its files are collected."""

    files: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    segmentations: list[Path] = field(default_factory=list)
    aside: dict[Path, str] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    patient: str | None = None

    def drop_unreadable(self) -> None:
        """Name as a problem, and drop, the paths at which image readers stop the whole program."""
        images = (*self.files.values(), self.segmentations, self.unknown)
        bad = {path for paths in (*images, self.aside) for path in paths if not is_utf8(path)}
        for paths in images:
            paths[:] = [path for path in paths if path not in bad]
        for kind in [kind for kind, paths in self.files.items() if not paths]:
            del self.files[kind]
        self.aside = {path: what for path, what in self.aside.items() if path not in bad}
        if bad:
            names = ", ".join(path.name for path in sorted(bad))
            self.problems.append(f"the path of {names} is not UTF-8, which image readers need; rename it")


def is_utf8(path: Path) -> bool:
    """Whether a path can be written in UTF-8; one from an old disk may hold other bytes."""
    return str(path) == shown(path)


def shown(text: object) -> str:
    """A text that can be printed: what is not UTF-8 becomes ``\\udcfc``."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def finish(
    drafts: Iterable[tuple[str, Draft]], modalities: Sequence[str], *, doubt: str | None = None
) -> Discovery:
    """Turn drafts into cases, and what is wrong with them into one line each."""
    by_name: dict[str, list[Draft]] = defaultdict(list)
    for name, draft in drafts:
        by_name[name].append(draft)
    cases, problems, unusable = [], {}, {}
    for name, (draft, *copies) in sorted(by_name.items()):
        draft.drop_unreadable()
        reasons = [shown(reason) for reason in _reasons(draft, modalities)]
        if copies:
            folders = sorted({p.parent.name for d in (draft, *copies) for f in d.files.values() for p in f})
            reasons = [f"duplicate case id, found in the folders {shown(', '.join(folders))}; keep one"]
        patient = draft.patient or subject_of(name)
        if not name.isprintable():
            what = (
                "a line break or the like is in the name" if name == shown(name) else "the name is not UTF-8"
            )
            name, reasons = repr(name), [f"{what}; rename the files"]
        images = {m: draft.files[m][0] for m in modalities if len(draft.files.get(m, ())) == 1}
        case = Case(name, images, next(iter(draft.segmentations), None), draft.aside, patient)
        if reasons:
            problems[name], unusable[name] = "; ".join(reasons), case
        else:
            cases.append(case)
    return Discovery(tuple(cases), problems, doubt, unusable)


def _reasons(draft: Draft, modalities: Sequence[str]) -> list[str]:
    reasons = list(draft.problems)
    if draft.unknown:
        names, known = ", ".join(path.name for path in draft.unknown), ", ".join(modalities)
        reasons.insert(
            0, f"unknown modality in the name of {names}; known are {known} (and seg), or --pattern"
        )
    several = {name: paths for name, paths in draft.files.items() if len(paths) > 1}
    if len(draft.segmentations) > 1:
        several["the segmentation"] = draft.segmentations
    for name, paths in several.items():
        reasons.append(
            f"{len(paths)} files for {name}: {', '.join(p.name for p in paths)}; keep one, or --pattern"
        )
    if not draft.files and not reasons:
        reasons.append("no modality at all: no image file that can be used")
    return reasons
