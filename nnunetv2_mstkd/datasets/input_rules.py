"""What a user says about files whose names do not say it: patterns, and which files are one case."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nnunetv2_mstkd.datasets.naming import SEGMENTATION, SEGMENTATION_NAMES
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

IGNORE = "ignore"


@dataclass(frozen=True)
class Pattern:
    """``t1c=*_T1post.nii.gz``: files whose name (or path below the source) matches are ``kind``.

    Attributes:
        name: as the user wrote it: a modality, ``seg`` or ``ignore``.
        glob: ``*`` is any text without ``/``, ``?`` one letter, ``**/`` any folders. Without ``/`` it is held
            against file names, else against paths below the source. What the first ``*`` stands for names
            the case.
    """

    name: str
    glob: str
    expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            expression = re.compile(_translated(self.glob))
        except re.error as error:
            raise MSTKDError(
                f"--pattern {self.name}='{self.glob}' cannot be read: {error.msg}; correct the [...] in it"
            ) from None
        object.__setattr__(self, "expression", expression)

    @property
    def of_paths(self) -> bool:
        """Whether it is held against paths."""
        return "/" in self.glob

    def match(self, text: str) -> str | None:
        """The case that the text names, ``""`` where it names none; None where it does not match."""
        match = self.expression.fullmatch(text)
        return None if match is None else (match[1] if match.re.groups else "").strip("-_. ")

    def kind(self, modalities: Sequence[str]) -> str:
        """The modality, ``seg`` or ``ignore``.

        Raises:
            MSTKDError: the model has no such modality.
        """
        if self.name.lower() == IGNORE:
            return IGNORE
        return SEGMENTATION if self.name.lower() in SEGMENTATION_NAMES else resolve(self.name, modalities)


@dataclass(frozen=True)
class InputRules:
    """How to read a source where the names alone do not tell.

    Attributes:
        one_case: the images of a folder are one case, whatever the first parts of their names are.
        patterns: which file is which modality, before any name is read.
        of_another_source: they were written for another folder: a pattern that matches nothing here is none.
    """

    one_case: bool = False
    patterns: tuple[Pattern, ...] = ()
    of_another_source: bool = False

    @property
    def of_paths(self) -> bool:
        """Whether some patterns are about paths."""
        return any(pattern.of_paths for pattern in self.patterns)

    def here(self, paths: Collection[str]) -> InputRules:
        """The same with the patterns alone that match one of these paths."""
        names = {path.rpartition("/")[2] for path in paths} | set(paths)
        fitting = (p for p in self.patterns if any(p.match(name) is not None for name in names))
        return replace(self, patterns=tuple(fitting))

    def words(self) -> list[str]:
        """The flags that say the same on a command line."""
        flags = ["--one-case"] if self.one_case else []
        return [*flags, *(w for p in self.patterns for w in ("--pattern", f"{p.name}={p.glob}"))]


class PatternMatcher:
    """The patterns of one search; it knows which have matched."""

    def __init__(self, patterns: Iterable[Pattern], modalities: Sequence[str]) -> None:
        """Resolve the names.

        Raises:
            MSTKDError: a pattern is for a modality that is not in ``modalities``.
        """
        self._kinds: Mapping[Pattern, str] = {p: p.kind(modalities) for p in patterns}
        self._matched: set[Pattern] = set()

    @property
    def kinds(self) -> frozenset[str]:
        """What there are patterns for: the names of other files say nothing about these."""
        return frozenset(self._kinds.values()) - {IGNORE}

    def match(self, text: str) -> tuple[str, str] | None:
        """(case, kind) of a file name or a path.

        Raises:
            MSTKDError: patterns of two kinds match.
        """
        found = {p: case for p in self._kinds if (case := p.match(text)) is not None}
        kinds = sorted({self._kinds[p] for p in found})
        if len(kinds) > 1:
            raise MSTKDError(
                f"--pattern: {text} matches the patterns of {' and '.join(kinds)}; narrow one of them"
            )
        self._matched.update(found)
        return next(((case, self._kinds[p]) for p, case in found.items()), None)

    def check_used(self, source: object) -> None:
        """Refuse a pattern that no file matches: its modality would silently be absent everywhere.

        Raises:
            MSTKDError: naming the pattern.
        """
        for pattern in self._kinds:
            if pattern not in self._matched:
                raise MSTKDError(
                    f"--pattern {pattern.name}='{pattern.glob}' matches no file in {source}; correct it, or"
                    " leave it away if no case has it"
                )


def parse_patterns(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Parse ``["t1c=*_T1post.nii.gz", ...]``.

    Raises:
        MSTKDError: one is not NAME=GLOB.
    """
    patterns = []
    for text in texts:
        name, equals, glob = text.partition("=")
        if not equals or not name.strip() or not glob.strip():
            raise MSTKDError(f"--pattern '{text}' is not NAME=GLOB, for example t1c='*_T1post.nii.gz'")
        patterns.append(Pattern(name.strip(), glob.strip().removeprefix("./")))
    return tuple(patterns)


def _translated(glob: str) -> str:
    """The regular expression of a glob, with the first ``*`` as its only group."""
    parts, grouped = [], False
    for part in re.findall(r"\*\*/|\*|\?|\[!?[^\]]+\]|[^*?\[]+|\[", glob):
        if part == "**/":
            parts.append("(?:[^/]+/)*")
        elif part == "*":
            parts.append("[^/]*" if grouped else "([^/]*)")
            grouped = True
        elif part == "?":
            parts.append("[^/]")
        elif part.startswith("[") and len(part) > 1:
            letters = re.escape(part[1:-1].removeprefix("!")).replace(r"\-", "-")
            parts.append(f"[{'^' if part[1] == '!' else ''}{letters}]")
        else:
            parts.append(re.escape(part))
    return "".join(parts)
