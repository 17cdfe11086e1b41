"""Training cases without a segmentation: what nnU-Net takes for their label shows nothing but background.

``convert --unlabelled`` writes such a label, because nnU-Net preprocesses no case without one, and notes the
case in ``dataset.json``. The split does not list it, so that whoever trains by the split never learns that
there is nothing to be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nnunetv2_mstkd.datasets.formats import patient_of
from nnunetv2_mstkd.errors import MSTKDError

# Of dataset.json's "mstkd".
UNLABELLED_KEY = "unlabelled"


def unlabelled_cases(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the cases whose segmentation is a placeholder.

    Raises:
        MSTKDError: the entry is no list of names.
    """
    names = dataset_json.get("mstkd", {}).get(UNLABELLED_KEY, ())
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise MSTKDError(f"'{UNLABELLED_KEY}' in 'mstkd' of dataset.json must be a list of case names")
    return tuple(sorted(names))


def unlabelled_beside(dataset_json: Mapping[str, Any], validation: Iterable[str]) -> tuple[str, ...]:
    """The cases without a segmentation that a fold may train on: of patients whom it does not validate."""
    validated = {patient_of(case, dataset_json) for case in validation}
    return tuple(
        case for case in unlabelled_cases(dataset_json) if patient_of(case, dataset_json) not in validated
    )
