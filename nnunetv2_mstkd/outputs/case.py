"""Everything beside one segmentation: its entry in ``statistics.json``, its masks, its preview."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.regions import Regions
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.provenance import file_digest
from nnunetv2_mstkd.inference.measuring import RegionStatistics, measure_regions
from nnunetv2_mstkd.inference.writing import MASKS
from nnunetv2_mstkd.outputs.expectation import expectations_of
from nnunetv2_mstkd.outputs.label_maps import LabelMap, read_label_map
from nnunetv2_mstkd.outputs.masks import mask_files, write_masks
from nnunetv2_mstkd.outputs.preview import preview_file, write_preview
from nnunetv2_mstkd.outputs.table import region_entry
from nnunetv2_mstkd.version import __version__

# Key of an entry whose masks or preview are not written yet, or could not be.
UNFINISHED = "unfinished"
_GROUPS = ("used", "absent", "constant", "ignored")


@dataclass(frozen=True)
class Wanted:
    """What is made beside the statistics. What a case has already is renewed with it in any case.

    Attributes:
        masks: a binary file per region.
        preview: a PNG per case, and the page.
    """

    masks: bool = False
    preview: bool = False


ONLY_STATISTICS = Wanted()


@dataclass(frozen=True)
class SegmentedCase:
    """A segmentation on disk, and what is known of it.

    Attributes:
        name: the case's name.
        file: the segmentation; its name may be temporary.
        file_ending: that of its real name.
        regions: name → label values in the file.
        values: all that the file may have; others are refused.
        use: its entry of ``modalities.json``; None where nobody knows what it is based on.
        images: modality → file; may be empty, then there is no preview.
    """

    name: str
    file: Path
    file_ending: str
    regions: Regions
    values: frozenset[int]
    use: Mapping[str, Any] | None
    images: Mapping[str, Path]

    @property
    def shown(self) -> dict[str, Path]:
        """The images that the segmentation is based on; all that are there where nobody knows."""
        return {m: path for m, path in self.images.items() if self.use is None or m in self.use["used"]}


def digest(file: Path) -> str:
    """Identify a segmentation."""
    return file_digest([file])


def is_described(case: SegmentedCase, folder: Path, entry: Mapping[str, Any] | None, wanted: Wanted) -> bool:
    """Say whether nothing is missing beside a segmentation, and all of it is of this very file."""
    if entry is None or entry.get(UNFINISHED) or entry.get("sha256") != digest(case.file):
        return False
    masks = mask_files(folder, case.name, case.regions, case.file_ending).values()
    return not (
        (wanted.masks and not all(path.is_file() for path in masks))
        or (wanted.preview and case.shown and not preview_file(folder, case.name).is_file())
    )


@dataclass(frozen=True, eq=False)
class MeasuredCase:
    """What was found in a segmentation.

    Attributes:
        entry: for ``statistics.json``.
        label_map: the segmentation.
        regions: name → its measures.
    """

    entry: dict[str, Any]
    label_map: LabelMap
    regions: Mapping[str, RegionStatistics]


def measure_case(case: SegmentedCase) -> MeasuredCase:
    """Measure a case.

    Raises:
        MSTKDError: the file cannot be read, or has values that are no labels of the data set.
    """
    label_map = read_label_map(case.file, f"{case.name}{case.file_ending}")
    _check_values(case, label_map)
    image = label_map.image
    measured = measure_regions(
        label_map.array, case.regions, image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    )
    known = expectations_of(case.use or {})
    entry = {
        "file": f"{case.name}{case.file_ending}",
        "sha256": digest(case.file),
        "spacing_mm": [round(mm, 6) for mm in image.GetSpacing()],
        **{group: None if case.use is None else list(case.use.get(group, ())) for group in _GROUPS},
        "regions": {name: region_entry(region, known.get(name)) for name, region in measured.items()},
        "measured_with": __version__,
    }
    return MeasuredCase(entry, label_map, measured)


def due_beside(case: SegmentedCase, folder: Path, wanted: Wanted) -> Wanted:
    """Return what has to be written beside a case: what is wanted, and what is there already."""
    masks, preview = (folder / MASKS / case.name).is_dir(), preview_file(folder, case.name).exists()
    return Wanted(masks=wanted.masks or masks, preview=bool(case.shown) and (wanted.preview or preview))


def write_beside(case: SegmentedCase, folder: Path, due: Wanted, measured: MeasuredCase) -> None:
    """Write masks and preview of a case.

    Raises:
        MSTKDError: an image cannot be read or lies on another grid, or a file cannot be written.
    """
    if due.masks:
        files = mask_files(folder, case.name, case.regions, case.file_ending)
        write_masks(measured.label_map, case.regions, files)
    if due.preview:
        notes = _notes(case, measured.regions)
        path = preview_file(folder, case.name)
        write_preview(path, case.name, measured.label_map, case.shown, case.regions, notes)


def _check_values(case: SegmentedCase, label_map: LabelMap) -> None:
    """Refuse an image, or labels of another convention: measured, tumour would be missing in silence."""
    foreign = sorted(set(np.unique(label_map.array).tolist()) - case.values)
    if foreign:
        found = ", ".join(map(str, foreign[:3])) + (" ..." if len(foreign) > 3 else "")
        raise MSTKDError(
            f"{case.name}{case.file_ending} has values that are no labels here ({found}; labels are"
            f" {', '.join(map(str, sorted(case.values)))}); if they are those of the data set's source, give"
            " --source_labels; if it is no segmentation, move it out"
        )


def _notes(case: SegmentedCase, measured: Mapping[str, RegionStatistics]) -> list[str]:
    """What the picture says under its title: the sequences, and how large the regions are."""
    sizes = [
        f"{name} {region.volume_ml:.1f} ml"
        if region.volume_ml is not None
        else f"{name} {region.area_mm2:.0f} mm²"
        for name, region in measured.items()
    ]
    if case.use is None:
        return ["   ".join(sizes)]
    groups = ((group, case.use.get(group) or ()) for group in _GROUPS)
    return ["   ".join(f"{group}: {', '.join(names)}" for group, names in groups if names), "   ".join(sizes)]
