"""What a trainer knows of its cases: the stored availability, completed from preprocessed volumes.

``nnUNetv2_mstkd plan`` stores it. A training on stock plans may come without, or with a file that fits no
longer; then the preprocessed volumes of the training's own folder are read, each case once and whole. That
works because a constant volume stays constant in nnU-Net's preprocessing: every normalisation maps equal
voxels of the mask to equal voxels, a placeholder that is not zero makes the mask the whole grid, and
resampling a constant gives the constant up to rounding, which :func:`is_constant` allows for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality


def case_availability(trainer: nnUNetTrainerMissingModality, cases: Sequence[str]) -> Availability:
    """Which modalities each of ``cases`` has.

    The converter's record comes first, then the stored file where it still fits the images, then the
    preprocessed volumes. What had to be found out is stored by rank 0; the other ranks find the same, so that
    none has to wait for another.

    Raises:
        MSTKDError: a case has no modality at all (naming it), or is not preprocessed.
    """
    base, folder = Path(trainer.preprocessed_dataset_folder_base), Path(trainer.preprocessed_dataset_folder)
    record = recorded(trainer.dataset_json, trainer.modalities)
    stored = load_availability(base, trainer.modalities)
    entries = {case: record.entries[case] for case in sorted(set(cases)) if case in record.entries}
    _say_contradictions(trainer, stored, entries)
    raw = _raw_files(trainer)
    for case in set(cases).difference(entries):
        entry = stored.entries.get(case)
        if entry is not None and _fits(entry, case, base, raw):
            entries[case] = entry
    unread = sorted(set(cases).difference(entries))
    if unread:
        trainer.print_to_log_file(
            f"{FILE_NAME} does not say what {len(unread)} cases have, or they have changed since; reading"
            f" their preprocessed volumes in {folder} once"
        )
        entries |= _read(trainer, folder, unread)
    availability = Availability(trainer.modalities, entries)
    availability.refuse_empty_cases()
    everything = Availability(trainer.modalities, {**stored.entries, **entries})
    if trainer.local_rank == 0 and everything != stored:
        _store(trainer, everything, base)
    return availability


def _say_contradictions(
    trainer: nnUNetTrainerMissingModality, stored: Availability, record: dict[str, Entry]
) -> None:
    different = [
        case
        for case, entry in record.items()
        if case in stored.entries and stored.entries[case].absent != entry.absent
    ]
    if different:
        named = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        trainer.print_to_log_file(
            f"WARNING: {FILE_NAME} contradicts the converter's record in dataset.json for {len(different)}"
            f" cases ({named}); the record is taken. If the data were converted again, preprocess them again"
        )


def _raw_files(trainer: nnUNetTrainerMissingModality) -> dict[str, tuple[Path, ...]]:
    """The raw images, where this machine has them (a cluster that trains often does not)."""
    try:
        folder = nnunet_folder("nnUNet_raw") / trainer.plans_manager.dataset_name
        return raw_images(folder, trainer.dataset_json)
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


def _read(trainer: nnUNetTrainerMissingModality, folder: Path, cases: Sequence[str]) -> dict[str, Entry]:
    dataset = trainer.dataset_class(str(folder), list(cases))

    def entry(case: str) -> Entry:
        absent = _constant_channels(dataset, case, trainer.modalities)
        return Entry(absent, folder.name, _volume_digest(folder, case))

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


def _store(trainer: nnUNetTrainerMissingModality, availability: Availability, folder: Path) -> None:
    try:
        availability.write(folder)
    except (OSError, MSTKDError) as error:
        trainer.print_to_log_file(
            f"{FILE_NAME} could not be written into {folder} ({error}); the next training will have to find"
            " out again what each case has"
        )
