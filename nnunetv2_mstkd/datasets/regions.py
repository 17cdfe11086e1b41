"""The regions of a data set: names, label values and colours; and a name and a colour for every value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.formats import FORMATS, TISSUES
from nnunetv2_mstkd.datasets.labels import NO_SOURCE_LABELS
from nnunetv2_mstkd.errors import MSTKDError

Regions = Mapping[str, tuple[int, ...]]

# Okabe and Ito, Color Universal Design, 2008. For nested regions: neighbours differ in hue and lightness, on
# grey images too.
REGION_COLORS = ("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00")


@dataclass(frozen=True)
class NamedLabel:
    """A value of a segmentation, as viewers show it.

    Attributes:
        value: in the file.
        name: of the tissue, else of the smallest region that has it.
        color: ``#RRGGBB``, that in which pictures paint it.
    """

    value: int
    name: str
    color: str


def regions_of(dataset_json: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Map name to label values, in the order of ``dataset.json``; without background and the ignore label.

    Source: nnunetv2's LabelManager (a label is a value or, for regions, a list of values).
    """
    values = {
        name: tuple(int(v) for v in (label if isinstance(label, (list, tuple)) else (label,)))
        for name, label in dataset_json["labels"].items()
        if name != "ignore"
    }
    return {name: labels for name, labels in values.items() if labels != (0,)}


def regions_in_files(dataset_json: Mapping[str, Any], *, source_labels: bool) -> dict[str, tuple[int, ...]]:
    """:func:`regions_of`, in the values that segmentations on disk have.

    Args:
        source_labels: they have those of the data set's source.

    Raises:
        MSTKDError: the data set does not know its source's values.
    """
    in_file = _values_in_files(dataset_json, source_labels=source_labels)
    regions = regions_of(dataset_json).items()
    return {name: tuple(in_file[value] for value in values if value in in_file) for name, values in regions}


def label_values(dataset_json: Mapping[str, Any], *, source_labels: bool) -> frozenset[int]:
    """Return all values that a label map on disk may have: background, labels, and the ignore label.

    Args:
        source_labels: they are those of the data set's source.

    Raises:
        MSTKDError: the data set does not know its source's values.
    """
    values = set(_values_in_files(dataset_json, source_labels=source_labels).values())
    if not source_labels:
        values |= {int(value) for value in dataset_json.get("regions_class_order") or ()}
    ignore = dataset_json["labels"].get("ignore")
    return frozenset(values | {0} | ({int(ignore)} if isinstance(ignore, int) else set()))


def _values_in_files(dataset_json: Mapping[str, Any], *, source_labels: bool) -> dict[int, int]:
    """Map a value of the data set to that in the files; the source may lack some."""
    values = {value for values in regions_of(dataset_json).values() for value in values}
    if not source_labels:
        return {value: value for value in values}
    source = dataset_json.get("mstkd", {}).get("source_labels")
    if not source:
        raise MSTKDError(NO_SOURCE_LABELS)
    return {value: int(source[str(value)]) for value in values if str(value) in source}


def region_mask(segmentation: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
    """Mark where a segmentation (any shape) has one of the labels: bool, the same shape."""
    if len(labels) == 1:
        return segmentation == labels[0]
    return np.isin(segmentation, labels)


def region_colors(regions: Sequence[str]) -> dict[str, str]:
    """Map region to colour; they repeat after seven."""
    return {name: REGION_COLORS[i % len(REGION_COLORS)] for i, name in enumerate(regions)}


def painting_order(regions: Regions) -> list[str]:
    """Order in which regions are painted: those of more labels first, so that inner ones stay visible."""
    return sorted(regions, key=lambda region: -len(regions[region]))


def named_labels(dataset_json: Mapping[str, Any], *, source_labels: bool = False) -> tuple[NamedLabel, ...]:
    """Give every value that a segmentation may have a name and a colour; without background.

    A data set with regions has no names for single values. Where ``convert`` wrote it they are the tissues
    (NCR, ED, ET, RC); else a value is called after the smallest region that has it, with the value behind the
    name where two share it.

    Args:
        source_labels: values are those of the data set's source.

    Raises:
        MSTKDError: the data set does not know its source's values.
    """
    regions, colors = regions_of(dataset_json), region_colors(list(regions_of(dataset_json)))
    # The last one that is painted is the one that is seen.
    seen = {value: name for name in painting_order(regions) for value in regions[name]}
    in_file = _values_in_files(dataset_json, source_labels=source_labels)
    tissues = _tissues(dataset_json) if any(len(values) > 1 for values in regions.values()) else {}
    shared = {name for name, times in Counter(seen.values()).items() if times > 1}
    return tuple(
        NamedLabel(
            in_file[value],
            tissues.get(value, f"{name} ({in_file[value]})" if name in shared else name),
            colors[name],
        )
        for value, name in sorted(seen.items())
        if value in in_file
    )


def _tissues(dataset_json: Mapping[str, Any]) -> dict[int, str]:
    """Map value to tissue for what ``convert`` wrote; nothing for other data sets."""
    known = FORMATS.get(dataset_json.get("mstkd", {}).get("format", ""))
    return {} if known is None else {TISSUES[name]: name for name in known.source_labels}


def is_flat(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Say whether the first axis is the one that nnU-Net's readers put before a 2D image.

    Its spacing says so: 999, in SimpleITK's reader times the larger of the others.
    """
    if len(shape) != 3 or shape[0] != 1:
        return False
    return any(np.isclose(spacing[0], placeholder) for placeholder in (999, 999 * max(spacing[1:])))


def region_volumes(segmentation: np.ndarray, regions: Regions, spacing: Sequence[float]) -> dict[str, float]:
    """Measure each region of a segmentation (Z, Y, X): mm³, or mm² of a 2D image (1, Y, X).

    Args:
        segmentation: label values of the data set.
        regions: name → label values.
        spacing: mm per array axis.
    """
    lengths = spacing[1:] if is_flat(segmentation.shape, spacing) else spacing
    counts = np.bincount(segmentation.ravel().astype(np.int64))
    voxel = float(np.prod(lengths))
    return {
        name: voxel * float(sum(counts[label] for label in set(labels) if label < len(counts)))
        for name, labels in regions.items()
    }
