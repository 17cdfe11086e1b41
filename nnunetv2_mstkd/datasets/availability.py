"""Which modalities each training case has: found once, kept in a file, keyed by name.

The file, ``mstkd_availability.json``, lies in ``nnUNet_preprocessed/DatasetXXX_Name``, beside the folders of
preprocessed cases and not in one of them: what a case has is the same in every configuration, and nnU-Net
takes a strange file among preprocessed cases for another storage format and stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.datasets.raw_images import ReadJob, absent_modalities, digest, raw_images, reader_class
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json
from nnunetv2_mstkd.modalities import format_subset, resolve, subset_mask

FILE_NAME = "mstkd_availability.json"
# Where an entry comes from; entries read from preprocessed volumes carry the name of their folder instead.
RECORD, RAW = "record", "raw"


@dataclass(frozen=True)
class Entry:
    """What is known of one case.

    Attributes:
        absent: modalities that the case lacks, in channel order.
        source: ``record`` (of the converter), ``raw`` (the raw images were read), or the name of the folder
            whose preprocessed volume was read.
        files: digest of the names, sizes and times of the files that were read; None for ``record``.
    """

    absent: tuple[str, ...]
    source: str
    files: str | None = None


@dataclass(frozen=True)
class Availability:
    """What every case of a data set has.

    Attributes:
        modalities: names in channel order.
        entries: case → entry.
    """

    modalities: tuple[str, ...]
    entries: Mapping[str, Entry]

    @property
    def incomplete(self) -> dict[str, tuple[str, ...]]:
        """Case → absent modalities, of the cases that lack some."""
        return {case: entry.absent for case, entry in self.entries.items() if entry.absent}

    def present(self, case: str) -> tuple[str, ...]:
        """The modalities that ``case`` has, in channel order."""
        absent = self.entries[case].absent
        return tuple(name for name in self.modalities if name not in absent)

    def flags(self, case: str) -> tuple[bool, ...]:
        """One flag per channel (C,), True where ``case`` has the modality."""
        return subset_mask(self.present(case), self.modalities)

    def of(self, cases: Iterable[str]) -> Availability:
        """The same, of ``cases`` only."""
        return Availability(self.modalities, {case: self.entries[case] for case in sorted(set(cases))})

    def refuse_empty_cases(self) -> None:
        """Refuse cases from which nothing can be learnt.

        Raises:
            MSTKDError: naming them.
        """
        empty = [case for case in self.entries if not self.present(case)]
        if empty:
            raise MSTKDError(
                f"no modality at all in {len(empty)} of {len(self.entries)} cases, every image is constant:"
                f" {', '.join(empty)}; repair their images, or take them out of the data set and its splits"
            )

    def write(self, folder: Path) -> None:
        """Write the file into ``folder`` in one step."""
        cases = {
            case: {"absent": list(entry.absent), "source": entry.source, "files": entry.files}
            for case, entry in sorted(self.entries.items())
        }
        write_json({"modalities": list(self.modalities), "cases": cases}, folder / FILE_NAME)


def recorded(dataset_json: Mapping[str, Any], modalities: Sequence[str]) -> Availability:
    """What the converter wrote down of the cases that it converted (empty for other data sets).

    Raises:
        MSTKDError: the record names a modality that the data set does not have.
    """
    record = dataset_json.get("mstkd", {})
    incomplete: Mapping[str, Sequence[str]] = record.get("incomplete_cases", {})
    entries = {}
    for case in {**record.get("patients", {}), **incomplete}:
        absent = {resolve(name, modalities) for name in incomplete.get(case, ())}
        entries[case] = Entry(tuple(name for name in modalities if name in absent), RECORD)
    return Availability(tuple(modalities), entries)


def load_availability(folder: Path, modalities: Sequence[str]) -> Availability:
    """What the file in ``folder`` knows.

    Empty without a file, for one that is damaged, and for one that was written for other channels: all of it
    can be found out again.
    """
    try:
        content = read_json(folder / FILE_NAME)
        if tuple(content["modalities"]) != tuple(modalities):
            return Availability(tuple(modalities), {})
        entries = {
            case: Entry(_in_channel_order(entry["absent"], modalities), entry["source"], entry["files"])
            for case, entry in content["cases"].items()
        }
    except (MSTKDError, KeyError, TypeError, AttributeError):
        entries = {}
    return Availability(tuple(modalities), entries)


def _in_channel_order(names: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    if not set(names) <= set(modalities):
        raise KeyError(names)
    return tuple(name for name in modalities if name in names)


def store_availability(
    raw_folder: Path,
    preprocessed_folder: Path,
    modalities: Sequence[str],
    *,
    num_processes: int | None = None,
) -> Availability:
    """Find out what each training case has and write it down for the trainers.

    The converter's record is trusted for the cases that it converted. The raw images of all others are read
    once, whole; a constant one counts as absent. Files that have not changed since are not read again.

    Args:
        raw_folder: ``nnUNet_raw/DatasetXXX_Name``.
        preprocessed_folder: ``nnUNet_preprocessed/DatasetXXX_Name``; the file is written there.
        modalities: names in channel order.
        num_processes: that read cases; None is nnU-Net's own number (``nnUNet_def_n_proc``).

    Raises:
        MSTKDError: an image is missing or cannot be read, or a case has no modality at all (naming it).
    """
    dataset_json = read_json(raw_folder / "dataset.json")
    images = raw_images(raw_folder, dataset_json)
    record, stored = recorded(dataset_json, modalities), load_availability(preprocessed_folder, modalities)
    entries: dict[str, Entry] = {}
    unread: dict[str, str | None] = {}
    for case, files in images.items():
        if case in record.entries:
            entries[case] = record.entries[case]
            continue
        signature, known = digest(files), stored.entries.get(case)
        if known is not None and (known.source, known.files) == (RAW, signature):
            entries[case] = known
        else:
            unread[case] = signature
    if unread:
        reader = reader_class(dataset_json, images[next(iter(unread))][0])
        jobs = [ReadJob(case, images[case], tuple(modalities), reader) for case in unread]
        found = run_all(
            absent_modalities, jobs, num_processes=num_processes or _processes(), title="reading images"
        )
        for (case, signature), absent in zip(unread.items(), found, strict=True):
            entries[case] = Entry(absent, RAW, signature)
    availability = Availability(tuple(modalities), entries)
    availability.refuse_empty_cases()
    availability.write(preprocessed_folder)
    return availability


def _processes() -> int:
    from nnunetv2.configuration import default_num_processes

    return default_num_processes


# Four modalities have fifteen subsets; seven have 127, of which the log shows the most frequent.
_MOST_SUBSETS = 15


def describe(availability: Availability) -> list[str]:
    """A short table: cases per absent modality and per set of modalities, and a warning for what none has."""
    modalities, cases = availability.modalities, availability.entries
    incomplete = availability.incomplete
    if not incomplete:
        return [f"all {len(cases)} cases have all {len(modalities)} modalities: {', '.join(modalities)}"]
    lacking = Counter(name for absent in incomplete.values() for name in absent)
    lines = [f"{len(incomplete)} of {len(cases)} cases lack modalities:", "  cases  lack"]
    lines += [f"{lacking[name]:>7}  {name}" for name in modalities if lacking[name]]
    lines += ["  cases  have exactly", *_subset_rows(availability)]
    never = [name for name in modalities if lacking[name] == len(cases)]
    if never:
        lines.append(
            f"warning: none of these cases has {', '.join(never)}; nothing is learnt or measured of it"
        )
    return lines


def _subset_rows(availability: Availability) -> Iterator[str]:
    sets = Counter(availability.present(case) for case in availability.entries)
    for present, count in sets.most_common(_MOST_SUBSETS):
        yield f"{count:>7}  {format_subset(present, availability.modalities)}"
    others = sets.most_common()[_MOST_SUBSETS:]
    if others:
        yield f"{sum(count for _, count in others):>7}  {len(others)} other sets"
