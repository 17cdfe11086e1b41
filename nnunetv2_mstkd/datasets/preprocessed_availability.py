"""Which modalities the cases of a training have: what is stored, completed from preprocessed volumes.

``nnUNetv2_mstkd plan`` stores it. A training on stock plans may come without, or with a file that fits no
longer; then the preprocessed volumes of the training's own folder are read, each case once and whole. That
works because a constant volume stays constant in nnU-Net's preprocessing: every normalisation maps equal
voxels of the mask to equal voxels, a placeholder that is not zero makes the mask the whole grid, and
resampling a constant gives the constant up to rounding, which :func:`is_constant` allows for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunetv2_mstkd.datasets.availability import (
    FILE_NAME,
    RAW,
    RECORD,
    Availability,
    Entry,
    load_availability,
    recorded,
)
from nnunetv2_mstkd.datasets.raw_images import digest, raw_images
from nnunetv2_mstkd.datasets.volumes import is_constant
from nnunetv2_mstkd.environment import nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError


@dataclass(frozen=True)
class Preprocessed:
    """Where a training finds what its cases have.

    Attributes:
        dataset_json: of the data set; may hold the converter's record.
        modalities: in channel order.
        base: the data set's folder below ``nnUNet_preprocessed``, where the availability is stored.
        volumes: the folder of the configuration's preprocessed cases.
        dataset_class: nnU-Net's reader of that folder.
        log: told what is found out, and what contradicts.
    """

    dataset_json: Mapping[str, Any]
    modalities: tuple[str, ...]
    base: Path
    volumes: Path
    dataset_class: type[nnUNetBaseDataset]
    log: Callable[[str], None]


def case_availability(data: Preprocessed, cases: Iterable[str], *, store: bool = True) -> Availability:
    """Which modalities each of ``cases`` has.

    The converter's record comes first, then the stored file where it still fits the images, then the
    preprocessed volumes.

    Args:
        data: the data set as it was preprocessed.
        cases: their names.
        store: keep what had to be found out beside the plans. In a distributed training rank 0 does; the
            others find the same, so that none has to wait for another.

    Raises:
        MSTKDError: a case has no modality at all (naming it), or is not preprocessed.
    """
    wanted = set(cases)
    record = recorded(data.dataset_json, data.modalities)
    stored = load_availability(data.base, data.modalities)
    entries = {case: record.entries[case] for case in sorted(wanted) if case in record.entries}
    _say_contradictions(data, stored, entries)
    raw = _raw_files(data)
    for case in wanted.difference(entries):
        entry = stored.entries.get(case)
        if entry is not None and _fits(entry, case, data.base, raw):
            entries[case] = entry
    unread = sorted(wanted.difference(entries))
    if unread:
        data.log(
            f"{FILE_NAME} does not say what {len(unread)} cases have, or they have changed since; reading"
            f" their preprocessed volumes in {data.volumes} once"
        )
        entries |= _read(data, unread)
    availability = Availability(data.modalities, entries)
    availability.refuse_empty_cases()
    everything = Availability(data.modalities, {**stored.entries, **entries})
    if store and everything != stored:
        _store(data, everything)
    return availability


def _say_contradictions(data: Preprocessed, stored: Availability, record: dict[str, Entry]) -> None:
    different = [
        case
        for case, entry in record.items()
        if case in stored.entries and stored.entries[case].absent != entry.absent
    ]
    if different:
        named = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        data.log(
            f"WARNING: {FILE_NAME} contradicts the converter's record in dataset.json for {len(different)}"
            f" cases ({named}); the record is taken. If the data were converted again, preprocess them again"
        )


def _raw_files(data: Preprocessed) -> dict[str, tuple[Path, ...]]:
    """The raw images, where this machine has them (a cluster that trains often does not)."""
    try:
        return raw_images(nnunet_folder("nnUNet_raw") / data.base.name, data.dataset_json)
    except (MSTKDError, OSError):
        return {}


def _fits(entry: Entry, case: str, base: Path, raw: dict[str, tuple[Path, ...]]) -> bool:
    """Whether the files behind a stored entry, where they are at hand, are those that it was made from."""
    if entry.source == RECORD:
        return False  # and dataset.json knows of no such record
    if entry.source == RAW:
        now = digest(raw[case]) if case in raw else None
    else:
        now = _volume_digest(base / entry.source, case)
    return now is None or now == entry.files


def _volume_digest(folder: Path, case: str) -> str | None:
    volumes = (folder / f"{case}{ending}" for ending in (".b2nd", ".npz"))
    return digest([next((path for path in volumes if path.exists()), folder / case)])


def _read(data: Preprocessed, cases: Sequence[str]) -> dict[str, Entry]:
    dataset = data.dataset_class(str(data.volumes), list(cases))

    def entry(case: str) -> Entry:
        absent = _constant_channels(dataset, case, data.modalities)
        return Entry(absent, data.volumes.name, _volume_digest(data.volumes, case))

    with ThreadPoolExecutor(max(1, get_allowed_n_proc_DA())) as pool:
        return dict(zip(cases, pool.map(entry, cases), strict=True))


def _constant_channels(dataset: nnUNetBaseDataset, case: str, modalities: Sequence[str]) -> tuple[str, ...]:
    try:
        data = dataset.load_case(case)[0]
    except FileNotFoundError as error:
        raise MSTKDError(
            f"case {case} of the split is not preprocessed in {dataset.source_folder} ({error}); preprocess"
            " it, or take it out of splits_final.json"
        ) from None
    if len(data) != len(modalities):
        raise MSTKDError(
            f"case {case} has {len(data)} channels in {dataset.source_folder}, but dataset.json names"
            f" {len(modalities)} ({', '.join(modalities)}); preprocess the data set again"
        )
    middle = data.shape[1] // 2
    # One slice tells for all but constant volumes.
    return tuple(
        name
        for channel, name in enumerate(modalities)
        if is_constant(data[channel, middle]) and is_constant(data[channel])
    )


def _store(data: Preprocessed, availability: Availability) -> None:
    try:
        availability.write(data.base)
    except (OSError, MSTKDError) as error:
        data.log(
            f"{FILE_NAME} could not be written into {data.base} ({error}); the next training will have to"
            " find out again what each case has"
        )
