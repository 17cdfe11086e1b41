"""``modalities.json``: what each segmentation in a folder was based on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import locked_folder, read_json, write_json

RECORDS_FILE = "modalities.json"
FOLD_AGREEMENT_KEY = "fold_agreement"  # region → mean pairwise Dice of the folds, where there are several
EXPECTED_KEY = "expected"  # region → trust.Expected, where the model's trust.json knows


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Case → its entry; empty where the folder has no ``modalities.json``.

    Raises:
        MSTKDError: the file is not a JSON object.
    """
    path = folder / RECORDS_FILE
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except MSTKDError as error:
        raise MSTKDError(f"{error}; move it away") from None
    if not isinstance(content, dict):
        raise MSTKDError(f"{path} does not list cases; move it away")
    return content


def record(folder: Path, case: str, entry: Mapping[str, Any]) -> None:
    """Add or replace one case's entry.

    The file is read again under a lock and replaced in one step, so any number of threads and processes can
    write into one folder, and a reader never sees half a file.
    """
    with recorded(folder, case, entry):
        pass


@contextmanager
def recorded(folder: Path, case: str, entry: Mapping[str, Any]) -> Iterator[None]:
    """:func:`record`, and hold the lock while the case's segmentation takes its place.

    So of two runs that segment one case at once, from other modalities perhaps, the last writes both.
    """
    with locked_folder(folder):
        records = {**read_records(folder), case: dict(entry)}
        write_json(dict(sorted(records.items())), folder / RECORDS_FILE)
        yield
