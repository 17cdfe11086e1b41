"""What a source holds, case by case, and what would be refused; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.discovery import Case, Discovery
from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.datasets.raw_scans import doubts
from nnunetv2_mstkd.datasets.volumes import (
    ONE_GRID,
    Geometry,
    check_header,
    is_constant,
    read_checked,
)
from nnunetv2_mstkd.errors import MSTKDError


@dataclass(frozen=True)
class InspectedCase:
    """One case.

    Attributes:
        name: of the case.
        files: modality → file.
        missing: modalities that have no file, or one that is constant.
        refused: why ``predict`` would not take the case.
        doubts: what it would take, but a reader should look at.
        grids: modality → grid, of the files whose header can be read.
        segmentation: the file taken for the segmentation.
        aside: files that are not needed → what they are taken for.
    """

    name: str
    files: dict[str, Path]
    missing: tuple[str, ...]
    refused: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    grids: dict[str, Geometry] = field(default_factory=dict)
    segmentation: Path | None = None
    aside: dict[Path, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``inspect --json``."""
        return {
            "case": self.name,
            "files": {name: str(path) for name, path in self.files.items()},
            "missing": list(self.missing),
            "problems": [*self.refused, *self.doubts],
        }


@dataclass(frozen=True)
class _Job:
    case: Case
    modalities: tuple[str, ...]
    dimensions: tuple[int, ...]
    zero_background: bool


def inspect_all(
    found: Discovery,
    modalities: Sequence[str],
    *,
    dimensions: Sequence[int] = (3,),
    zero_background: bool = True,
    num_processes: int = 1,
) -> list[InspectedCase]:
    """Read every file of every case once.

    Args:
        found: what the source holds.
        modalities: those of the model, in channel order.
        dimensions: numbers of axes that an image may have.
        zero_background: the model expects images that are registered and skull-stripped.

    Returns:
        Cases by name, bad ones included.
    """
    jobs = [_Job(case, tuple(modalities), tuple(dimensions), zero_background) for case in found.cases]
    cases = run_all(_inspected, jobs, num_processes=num_processes, title="reading")
    cases += [
        InspectedCase(
            name,
            case.images,
            tuple(m for m in modalities if m not in case.images),
            refused=(found.problems[name],),
            segmentation=case.segmentation,
            aside=dict(case.aside),
        )
        for name, case in found.unusable.items()
    ]
    return sorted(cases, key=lambda case: case.name)


def _inspected(job: _Job) -> InspectedCase:
    case = job.case
    grids: dict[str, Geometry] = {}
    volumes: dict[str, np.ndarray] = {}
    refused = []
    for name, path in case.images.items():
        try:
            grids[name] = check_header(path, dimensions=job.dimensions)
            volumes[name] = sitk.GetArrayFromImage(read_checked(path, dimensions=job.dimensions))
        except MSTKDError as error:
            refused.append(str(error))
    refused += _differences(case, grids)
    constant = [name for name, volume in volumes.items() if is_constant(volume)]
    if constant and len(constant) == len(case.images):
        refused.append("no modality at all: every image has one value everywhere")
    seen = {name: volume for name, volume in volumes.items() if name not in constant}
    found = [f"{name} has one value everywhere: it counts as missing" for name in constant]
    if job.zero_background and not refused:
        found += doubts(seen)
    missing = tuple(m for m in job.modalities if m not in case.images or m in constant)
    return InspectedCase(
        case.name,
        case.images,
        missing,
        tuple(refused),
        tuple(found),
        grids,
        case.segmentation,
        dict(case.aside),
    )


def _differences(case: Case, grids: dict[str, Geometry]) -> list[str]:
    if not grids:
        return []
    (first, reference), *others = grids.items()
    found = ((name, reference.difference(grid)) for name, grid in others)
    return [
        f"{first} and {name} differ in {difference}; {ONE_GRID}" for name, difference in found if difference
    ]
