"""Tissue labels and regions of converted data sets, and the way back to the source's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.formats import TISSUES, DatasetFormat, formats_with_names, formats_with_values
from nnunetv2_mstkd.errors import MSTKDError

# Region -> its tissues, and the tissue that nnU-Net writes where the region ends up alone. In this order each
# region overwrites the one before it, which gives the tissue labels back: WT leaves ED, TC leaves NCR.
# The resection cavity (2024) belongs to no other region (arXiv 2405.18368).
_REGIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "WT": (("NCR", "ED", "ET"), "ED"),
    "TC": (("NCR", "ET"), "NCR"),
    "ET": (("ET",), "ET"),
    "RC": (("RC",), "RC"),
}

NO_SOURCE_LABELS = (
    "dataset.json has no mstkd.source_labels: the data set was not written by nnUNetv2_mstkd convert;"
    " leave --source_labels away"
)


def label_section(fmt: DatasetFormat, *, regions: bool) -> dict[str, Any]:
    """The ``labels`` of ``dataset.json``, with ``regions_class_order`` where regions are asked for."""
    tissues = [name for name in TISSUES if name in fmt.source_labels]
    if not regions:
        return {"labels": {"background": 0, **{name: TISSUES[name] for name in tissues}}}
    used = {name: row for name, row in _REGIONS.items() if set(row[0]).issubset(tissues)}
    return {
        "labels": {
            "background": 0,
            **{name: [TISSUES[tissue] for tissue in members] for name, (members, _) in used.items()},
        },
        "regions_class_order": [TISSUES[alone] for _, alone in used.values()],
    }


def source_label_section(fmt: DatasetFormat) -> dict[str, int]:
    """``mstkd.source_labels`` of ``dataset.json``: converted value (as text) → the source's value."""
    return {str(target): source for source, target in sorted(fmt.label_map.items()) if target}


def integral_values(array: np.ndarray) -> list[int]:
    """The distinct values of a segmentation; floating point is fine as long as it holds integers.

    Raises:
        MSTKDError: a value lies between integers.
    """
    values = np.unique(array)
    broken = values[values != np.round(values)]
    if broken.size:
        examples = ", ".join(f"{value:.4g}" for value in broken[:3])
        raise MSTKDError(
            f"the segmentation has values between integers ({examples}); it was resampled with interpolation,"
            " use the original"
        )
    return [int(value) for value in values]


def check_label_values(
    fmt: DatasetFormat, values: Iterable[int], all_values: Iterable[int], case: str = ""
) -> None:
    """Refuse label values that the format does not have.

    Args:
        values: those of one case.
        case: its name, which may tell the release.
        all_values: those of the whole data set, from which the formats that would fit are named.

    Raises:
        MSTKDError: a value is not one of the format's.
    """
    found = sorted(set(values))
    if fmt.values.issuperset(found):
        return
    told = [name for name in formats_with_names([case]) if name in formats_with_values(found)]
    names = " or ".join(told or formats_with_values(all_values)) or "no format"
    whose = "its name and values fit" if told else "all cases together fit"
    raise MSTKDError(
        f"label values {_listed(found)} contradict {fmt.name} ({_listed(sorted(fmt.values))}); {whose}"
        f" {names}, check --format"
    )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def to_target_labels(array: np.ndarray, fmt: DatasetFormat) -> np.ndarray:
    """A source segmentation (any shape, any dtype, values checked before) in converted values, uint8."""
    return _mapped(array, fmt.label_map)


def to_source_labels(array: np.ndarray, dataset_json: Mapping[str, Any]) -> np.ndarray:
    """A segmentation in converted values, any shape, in the values of the data set's source.

    Args:
        array: values 0 and those in ``labels`` of the data set.
        dataset_json: the content of ``dataset.json``, from the data set or the model folder.

    Returns:
        uint8 array of the same shape.

    Raises:
        MSTKDError: the data set carries no source labels, or the array a value that is not among them.
    """
    source_labels = dataset_json.get("mstkd", {}).get("source_labels")
    if not source_labels:
        raise MSTKDError(NO_SOURCE_LABELS)
    mapping = {0: 0, **{int(target): int(source) for target, source in source_labels.items()}}
    unknown = sorted(set(integral_values(array)).difference(mapping))
    if unknown:
        raise MSTKDError(f"label values {_listed(unknown)} are not among mstkd.source_labels of dataset.json")
    return _mapped(array, mapping)


def _mapped(array: np.ndarray, mapping: Mapping[int, int]) -> np.ndarray:
    table = np.zeros(max(mapping) + 1, dtype=np.uint8)
    for old, new in mapping.items():
        table[old] = new
    return table[array.astype(np.intp)]
