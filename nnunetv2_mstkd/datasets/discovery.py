"""Which cases a folder holds, and which file is which modality.

These layouts are understood, and told apart by their file names::

    cases/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ...   one folder per case, any known alias
    BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ...         one such case
    images/CASE_t1_bet.nii.gz, CASE_flair_bet.nii.gz ...           named files without folders
    imagesTs/case_a_0000.nii.gz, case_a_0003.nii.gz ...            nnU-Net's, by channel number
    bids/sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz ...           BIDS; or one subject, one session of it
    cases.csv                                                      a table: case, sequence, path (patient)

Any file of a case may be absent. What cannot be understood is reported per case, never dropped, and what
reads as several incomplete cases but is likely one is refused.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nnunetv2_mstkd.datasets.bids import below, is_session_folder, is_subject_folder, session_of, subject_of
from nnunetv2_mstkd.datasets.case_table import Row, is_table, read_table
from nnunetv2_mstkd.datasets.cases import Case, Discovery, Draft, finish, is_utf8, shown
from nnunetv2_mstkd.datasets.input_rules import IGNORE, InputRules, PatternMatcher
from nnunetv2_mstkd.datasets.listing import entries, files_below
from nnunetv2_mstkd.datasets.naming import SEGMENTATION, SEGMENTATION_NAMES, Reading, read_name
from nnunetv2_mstkd.datasets.nifti import NIFTI_ENDINGS, is_nifti_name, without_ending
from nnunetv2_mstkd.datasets.one_or_several import NamedDraft, doubt_of, is_identifier, joined
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

__all__ = ["Case", "Discovery", "discover", "find_cases"]

_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_WAY_OUT = "say which with --pattern, or rename it"
_NOTHING_IN = "%d folder(s) in %s hold no image that is looked for, and are not used: %s"

logger = logging.getLogger(__name__)


def discover(
    source: Path, modalities: Sequence[str], *, file_ending: str = ".nii.gz", rules: InputRules | None = None
) -> Discovery:
    """Find the cases in ``source``.

    Args:
        source: a folder in one of the layouts above, or a table.
        modalities: the modalities that are looked for, in the channel order of nnU-Net's file numbers.
        file_ending: nnU-Net's file ending of the data set; ``.nii`` and ``.nii.gz`` are always accepted.
        rules: what the user says about names that do not tell.

    Returns:
        Cases in order of their names, images in the order of ``modalities``.

    Raises:
        MSTKDError: no such source, nothing in it looks like a case, or what looks like several incomplete
            cases is likely one.
    """
    found = find_cases(source, modalities, file_ending=file_ending, rules=rules)
    if found.doubt is not None:
        raise MSTKDError(found.doubt)
    aside = sum(len(case.aside) for case in found.cases)
    if aside:
        logger.warning("%d file(s) of %s are left aside; nnUNetv2_mstkd inspect names them", aside, source)
    return found


def find_cases(
    source: Path, modalities: Sequence[str], *, file_ending: str = ".nii.gz", rules: InputRules | None = None
) -> Discovery:
    """Like :func:`discover`, but a doubt is returned, not raised.

    Raises:
        MSTKDError: no such source, or nothing in it looks like a case.
    """
    check_source(source)
    if is_table(source) and source.is_file():
        if rules is not None:
            raise MSTKDError("a table names every file: --pattern and --one-case do not go with it")
        return finish(_cases_of_table(source, modalities).items(), modalities)
    if not source.is_dir():
        raise MSTKDError(
            f"{source} is a file; give the folder that holds the case or the cases, or a table (.csv)"
        )
    rules = rules or InputRules()
    if rules.of_another_source:
        rules = rules.here([path.relative_to(source).as_posix() for path in files_below(source)])
    search = _Search(source, modalities, tuple(dict.fromkeys((*NIFTI_ENDINGS, file_ending))), rules)
    found = search.run()
    if not rules.of_another_source:
        search.matcher.check_used(source)
    return found


def check_source(source: Path) -> None:
    """See whether a source can be looked into.

    Raises:
        MSTKDError: it is not there, or its path is none that can be read.
    """
    if not is_utf8(source):
        raise MSTKDError(
            f"the path {shown(source)} is not UTF-8, which image readers need; rename the folder"
        )
    try:
        there = source.exists()
    except OSError as error:  # a name that is too long
        raise MSTKDError(f"cannot look for the input {source}: {error.strerror or error}") from None
    if not there:
        raise MSTKDError(f"input not found: {source}")


def is_numbered(folder: Path) -> bool:
    """Whether a folder holds images in nnU-Net's layout, by channel number.

    Raises:
        MSTKDError: it cannot be listed.
    """
    names = (path.name for path in entries(folder) if is_nifti_name(path.name))
    return any(_CHANNEL_FILE.fullmatch(without_ending(name)) for name in names)


class _Search:
    """One look at a folder."""

    def __init__(
        self, source: Path, modalities: Sequence[str], endings: tuple[str, ...], rules: InputRules
    ) -> None:
        self.source, self.modalities, self.endings, self.rules = source, modalities, endings, rules
        self.matcher = PatternMatcher(rules.patterns, modalities)

    def run(self) -> Discovery:
        drafts = list(self._by_path().items()) if self.rules.of_paths else self._by_name()
        if self.rules.one_case:
            drafts = joined(drafts, self._own_name, self.modalities)
        if not self.rules.of_paths:
            return finish(drafts, self.modalities, doubt=doubt_of(drafts, self.source, self.modalities))
        if self.rules.one_case and len(drafts) > 1:
            names = ", ".join(shown(name) for name, _ in drafts)
            raise MSTKDError(
                f"--one-case: the patterns find {len(drafts)} cases ({names}) that are not parts of one;"
                " leave --one-case out, or write patterns whose first * names the case"
            )
        return finish(drafts, self.modalities)

    @property
    def _own_name(self) -> str:
        """That of a case which is the source itself."""
        source = self.source.resolve()
        return "_".join(session_of(source) or (source.name,))

    # What is where.

    def _by_name(self) -> list[NamedDraft]:
        volumes = self._volumes(self.source)
        if not volumes:
            return self._in_folders()
        folders = [p for p in entries(self.source) if p.is_dir()]
        if folders:
            logger.warning("%s holds images; its %d sub-folders are not searched", self.source, len(folders))
        if any(_CHANNEL_FILE.fullmatch(stem) for stem in volumes.values()):
            return list(self._numbered_cases(volumes).items())
        return self._one_case_or_flat(volumes)

    def _in_folders(self) -> list[NamedDraft]:
        """A folder per case, or BIDS; the source itself may be a subject of it."""
        own = self._volumes_of_case(self.source)
        if own:
            return self._folder_cases(self.source, own)
        folders = [p for p in entries(self.source) if p.is_dir()]
        found: dict[Path, dict[Path, str]] = {}
        closed: list[NamedDraft] = []
        for folder in folders:
            try:
                found[folder] = self._volumes_of_case(folder)
            except MSTKDError as error:  # no permission for this one; the others are cases all the same
                closed.append((folder.name, Draft(problems=[str(error)])))
        if not any(found.values()) and not closed:
            raise MSTKDError(
                f"no cases in {self.source}: expected folders with files like CASE-t1c.nii.gz, files like"
                f" CASE_0000{self.endings[-1]}, or BIDS; else say --pattern t1c='*/T1post/*.nii.gz'"
            )
        if any(is_subject_folder(folder) for folder in folders):  # BIDS: code and derivatives are no cases
            empty = [path.name for path, files in found.items() if is_subject_folder(path) and not files]
            if empty:
                logger.warning(_NOTHING_IN, len(empty), self.source, shown(", ".join(empty)))
            found = {folder: files for folder, files in found.items() if files}
        named = [case for folder, files in found.items() for case in self._folder_cases(folder, files)]
        return named + closed

    def _volumes_of_case(self, folder: Path) -> dict[Path, str]:
        return {p: stem for place in (folder, *below(folder)) for p, stem in self._volumes(place).items()}

    def _warn_of_the_rest(self, folder: Path, volumes: Iterable[Path], drafts: Sequence[NamedDraft]) -> None:
        """Say so where a case's folder has empty sessions, or elsewhere images which the case lacks."""
        searched = {folder, *below(folder)}
        used = {parent for path in volumes for parent in path.parents}
        empty = [p.name for p in sorted(searched) if is_session_folder(p) and p not in used]
        if empty:
            logger.warning(_NOTHING_IN, len(empty), folder, shown(", ".join(empty)))
        lacking = {m for m in self.modalities if any(m not in draft.files for _, draft in drafts)}
        inside = {path for place in searched if lacking for path in entries(place) if path.is_dir()}
        elsewhere: dict[str, Path] = {}
        for place in sorted(inside - searched):
            elsewhere |= {k: path for k, path in self._not_searched(place).items() if k in lacking}
        if elsewhere:
            logger.warning(
                "%s lacks %s, but its sub-folders that are not searched seem to hold it (%s): move the files"
                " up, or use --pattern",
                *(shown(folder), " ".join(elsewhere), shown(next(iter(elsewhere.values())))),
            )

    def _not_searched(self, folder: Path) -> dict[str, Path]:
        """What images below a folder are by their names, or their folders' names: modality → one of them."""
        try:
            files = files_below(folder)
        except MSTKDError:  # nothing of it is read anyway
            return {}
        return {
            str(read_name(name, self.modalities).kind): path
            for path in files
            if (ending := self._ending(path))
            for name in (path.parent.name, path.name[: -len(ending)])
        }

    def _volumes(self, folder: Path) -> dict[Path, str]:
        """Image file → its name without the ending. A broken link counts: reading it will say so."""
        stems = {}
        for path in entries(folder):
            ending = self._ending(path)
            if ending and not path.is_dir():
                stems[path] = path.name[: -len(ending)]
        return stems

    def _ending(self, path: Path) -> str | None:
        """That of an image; some scanners' exports shout (``.NII.GZ``)."""
        return next((e for e in self.endings if path.name.lower().endswith(e.lower())), None)

    # What the names say.

    def _readings(self, volumes: Mapping[Path, str]) -> dict[Path, Reading]:
        """What each name of a folder says, together with the others."""
        readings = {path: self._reading(path, stem) for path, stem in volumes.items()}
        prefixes = [r.prefix for r in readings.values()]
        for path, reading in readings.items():
            shorter = reading.shorter
            if shorter is not None and shorter.prefix in prefixes:
                if prefixes.count(reading.prefix) > 1:
                    why = f"it may be of {reading.prefix or 'the case'} or of {shorter.prefix}"
                    readings[path] = Reading(reading.prefix, problem=why)
                else:
                    readings[path] = shorter
        return readings

    def _reading(self, path: Path, stem: str) -> Reading:
        matched = self.matcher.match(path.name)
        if matched is not None:
            case, kind = matched
            return Reading(case, aside="ignored") if kind == IGNORE else Reading(case, kind)
        reading = read_name(stem, self.modalities)
        if reading.kind in self.matcher.kinds:
            return Reading(reading.prefix, aside=f"{reading.kind} by its name, but --pattern names another")
        return reading

    def _add(self, draft: Draft, path: Path, reading: Reading) -> None:
        kind, aside = reading.kind, reading.aside
        if aside is not None:
            draft.aside[path] = aside
        elif reading.problem is not None:
            draft.problems.append(f"the name of {path.name} is unclear: {reading.problem}; {_WAY_OUT}")
        elif kind is None:
            draft.unknown.append(path)
        elif kind == SEGMENTATION:
            draft.segmentations.append(path)
        else:
            draft.files[kind].append(path)
            draft.prefixes.add(reading.prefix)

    def _folder_cases(self, folder: Path, volumes: Mapping[Path, str]) -> list[NamedDraft]:
        """The case in a folder of its own; by BIDS a folder may hold several sessions."""
        drafts = self._by_session(folder, self._readings(volumes))
        self._warn_of_the_rest(folder, volumes, drafts)
        return drafts

    def _by_session(self, folder: Path, readings: dict[Path, Reading]) -> list[NamedDraft]:
        name = self._own_name if folder == self.source else folder.name
        sessions = {path: session for path in readings if (session := session_of(self._place(path)))}
        names = {path: "_".join(session) for path, session in sessions.items()}
        for path, reading in readings.items():
            if reading.standard and not self.rules.one_case:
                if path in sessions and subject_of(reading.prefix) is None:  # the folder alone says which
                    readings[path] = replace(reading, prefix=f"{reading.prefix}_{sessions[path][1]}")
                names[path] = readings[path].prefix
        inside = set(sessions.values())
        several = len({r.prefix for r in readings.values() if r.standard}) > 1 or len(inside) > 1
        if not several or self.rules.one_case:
            return [self._folder_case("_".join(*inside) if len(inside) == 1 else name, readings)]
        parts: dict[str, dict[Path, Reading]] = defaultdict(dict)
        for path, reading in readings.items():
            parts[names.get(path, name)][path] = reading
        return [self._folder_case(part, files) for part, files in parts.items()]

    def _place(self, path: Path) -> Path:
        """The folder of an image, from the root of the disk on."""
        return self.source.resolve() / path.parent.relative_to(self.source)

    def _folder_case(self, name: str, readings: Mapping[Path, Reading]) -> NamedDraft:
        draft = Draft()
        for path, reading in readings.items():
            self._add(draft, path, reading)
        ids = {prefix for prefix in draft.prefixes if is_identifier(prefix)}
        if len(ids) > 1 or (len(draft.prefixes) > 1 and not self.rules.one_case):
            names = ", ".join(sorted(prefix or "(no name)" for prefix in draft.prefixes))
            remedy = "" if len(ids) > 1 else "; give --one-case if they are one"
            draft.problems.append(f"the folder mixes files of several cases: {names}{remedy}")
        self._compare_ids(name, draft, readings)
        return (next(iter(ids)) if len(ids) == len(draft.prefixes) == 1 else name), draft

    def _compare_ids(self, name: str, draft: Draft, readings: Mapping[Path, Reading]) -> None:
        """Refuse a segmentation with an identifier that is not the images'."""
        owners = draft.prefixes - {""} or ({name} if is_identifier(name) else set())
        for path in draft.segmentations:
            prefix = readings[path].prefix
            if is_identifier(prefix) and owners and not any(_same(prefix, owner) for owner in owners):
                whose = ", ".join(sorted(owners))
                draft.problems.append(
                    f"{path.name} is of another case than the images ({whose}); move it there, or rename it"
                )

    def _one_case_or_flat(self, volumes: Mapping[Path, str]) -> list[NamedDraft]:
        """Named files without sub-folders: one case, or several told apart by the first part of the name."""
        readings = self._readings(volumes)
        prefixes = {r.prefix for r in readings.values() if r.kind not in (None, SEGMENTATION)}
        if len(prefixes) <= 1 or self.rules.one_case:
            # The name of the case: another patient's files in the same folder are another case.
            name = min(prefixes) if len(prefixes) == 1 else ""
            return [self._folder_case(name or self._own_name, readings)]
        drafts: dict[str, Draft] = defaultdict(Draft)
        for path, reading in readings.items():
            self._add(drafts[_owner(reading.prefix, prefixes) or self._own_name], path, reading)
        return list(drafts.items())

    def _numbered_cases(self, volumes: Mapping[Path, str]) -> dict[str, Draft]:
        """nnU-Net's layout: ``CASE_0000`` is the first modality."""
        drafts: dict[str, Draft] = defaultdict(Draft)
        for path, stem in volumes.items():
            if self.matcher.match(path.name) is not None:
                reading = self._reading(path, stem)
                self._add(drafts[reading.prefix], path, reading)
                continue
            match = _CHANNEL_FILE.fullmatch(stem)
            if match is None:
                drafts[stem].problems.append(f"{path.name} carries no channel number like _0000")
                continue
            draft, channel = drafts[match["case"]], int(match["channel"])
            if channel < len(self.modalities):
                draft.files[self.modalities[channel]].append(path)
            else:
                numbers = ", ".join(f"_{i:04d} {name}" for i, name in enumerate(self.modalities))
                draft.problems.append(f"unknown channel _{channel:04d} in {path.name}; known are {numbers}")
        self._compare_words_with_numbers(drafts)
        return drafts

    def _compare_words_with_numbers(self, drafts: Mapping[str, Draft]) -> None:
        """``P_t1_0000`` and ``P_flair_0003`` are two cases to nnU-Net, and ``P_flair_0000`` is a t1n.

        Only cases of one file are looked at: where T1 and T2 are times, a case has several.
        """
        words: dict[str, dict[str, str]] = defaultdict(dict)
        for name, draft in drafts.items():
            if sum(map(len, draft.files.values())) == 1 and not draft.problems:
                reading = read_name(name, self.modalities)
                if reading.kind in self.modalities:
                    words[reading.prefix][name] = str(reading.kind)
        for prefix, kinds in words.items():
            for name, kind in kinds.items():
                channel = next(iter(drafts[name].files))
                a_time = name[len(prefix) :].strip("-_. ").lower() in ("t1", "t2")
                if len(set(kinds.values())) > 1 or (kind != channel and not a_time):
                    says = f"the name says {kind}, the number says {channel}"
                    if kind == channel:
                        says = f"by its number it is a case of its own, {name}"
                    case = prefix or "CASE"
                    drafts[name].problems.append(
                        f"{says}; name the files of one case {case}_0000, {case}_0001 ..., or use --pattern"
                    )

    def _by_path(self) -> dict[str, Draft]:
        """What patterns with folders in them find; no name is read."""
        drafts: dict[str, Draft] = defaultdict(Draft)
        for path in filter(self._ending, files_below(self.source)):
            within = path.relative_to(self.source)
            matched = self.matcher.match(within.as_posix()) or self.matcher.match(path.name)
            if matched is not None and matched[1] != IGNORE:
                case, kind = matched
                self._add(drafts[case or self._own_name], path, Reading(case, kind))
        if not drafts:
            patterns = ", ".join(f"{p.name}='{p.glob}'" for p in self.rules.patterns)
            raise MSTKDError(f"no file in {self.source} matches --pattern {patterns}")
        return drafts


def _cases_of_table(table: Path, modalities: Sequence[str]) -> dict[str, Draft]:
    drafts: dict[str, Draft] = defaultdict(Draft)
    listed: dict[Path, list[Row]] = defaultdict(list)
    for row in read_table(table):
        draft = drafts[row.case]
        if row.patient and draft.patient not in (None, row.patient):
            draft.problems.append(
                f"{table.name}, line {row.line}: patient {row.patient}, but {draft.patient} above; keep one"
            )
        draft.patient = draft.patient or row.patient or None
        if not _is_file(row.path):
            draft.problems.append(
                f"{table.name}, line {row.line}: no file {row.path} (paths count from the table's folder)"
            )
            continue
        listed[row.path.resolve()].append(row)
        if row.sequence.lower() in SEGMENTATION_NAMES:
            draft.segmentations.append(row.path)
        else:
            try:
                draft.files[resolve(row.sequence, modalities)].append(row.path)
            except MSTKDError as error:
                draft.problems.append(f"{table.name}, line {row.line}: {error}")
    for path, rows in listed.items():
        if len(rows) > 1:
            lines = " and ".join(f"line {row.line} ({row.case}, {row.sequence})" for row in rows)
            for case in {row.case for row in rows}:
                drafts[case].problems.append(f"{table.name} lists {path.name} in {lines}; keep one of them")
    return drafts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long is none of a file
        return False


def _same(one: str, other: str) -> bool:
    """Whether two names are of one case: one begins with the other."""
    return any(_owner(a.lower(), [b.lower()]) == b.lower() for a, b in ((one, other), (other, one)))


def _owner(prefix: str, prefixes: Iterable[str]) -> str:
    """A name with an unknown ending belongs to the case whose name it begins with."""
    begins = [p for p in prefixes if prefix == p or (p and re.match(re.escape(p) + r"[-_. ]", prefix))]
    return max(begins, key=len, default=prefix)
