"""Reading every file of a case once before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.convert.source_cases import SourceCase, read_images
from nnunetv2_mstkd.datasets.labels import integral_values
from nnunetv2_mstkd.datasets.volumes import (
    NNUNET_SPACING_TOLERANCE,
    ONE_GRID,
    Geometry,
    geometry_of,
    is_constant,
    read_checked,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


class BadCasesError(MSTKDError):
    """Cases of the source cannot be used; ``problems`` gives one line for each."""

    def __init__(self, problems: dict[str, str], count: int) -> None:
        super().__init__(
            f"{len(problems)} of {count} cases cannot be converted, nothing was written; repair them or move"
            " them out of the folder"
        )
        self.problems = dict(sorted(problems.items()))


@dataclass(frozen=True)
class Inspection:
    """What the files of a case hold.

    Attributes:
        case: the case.
        geometry: the grid that all its files share.
        blank: modalities whose file is there but constant: as good as absent.
        label_values: distinct values of the segmentation; empty without one.
        integer_labels: whether the segmentation is stored as an integer type.
        problem: None, or one line that says why the case cannot be used (the rest is then meaningless).
    """

    case: SourceCase
    geometry: Geometry | None = None
    blank: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    integer_labels: bool = False
    problem: str | None = None

    @property
    def absent(self) -> tuple[str, ...]:
        """Modalities without information: no file, or a constant one."""
        return tuple(m for m in BRATS_MODALITIES if m not in self.case.images or m in self.blank)


def inspect_case(case: SourceCase) -> Inspection:
    """Read all files of a case; what is wrong comes back in ``problem``, nothing is raised."""
    try:
        return _inspect(case)
    except MSTKDError as error:
        return Inspection(case, problem=str(error))


def _inspect(case: SourceCase) -> Inspection:
    reference: tuple[str, Geometry] | None = None
    blank = []
    for modality, image in read_images(case):
        reference = _same_grid(reference, str(case.images[modality].path), image)
        if is_constant(sitk.GetArrayViewFromImage(image)):
            blank.append(modality)
    if reference is None or len(blank) == len(case.images):
        raise MSTKDError("no modality at all: every image is constant (one value everywhere)")
    if case.segmentation is None:
        return Inspection(case, reference[1], tuple(blank))
    segmentation = read_checked(case.segmentation)
    _same_grid(reference, str(case.segmentation), segmentation)
    array = sitk.GetArrayViewFromImage(segmentation)
    integer = bool(np.issubdtype(array.dtype, np.integer))
    return Inspection(case, reference[1], tuple(blank), tuple(integral_values(array)), integer)


def _same_grid(reference: tuple[str, Geometry] | None, path: str, image: sitk.Image) -> tuple[str, Geometry]:
    geometry = geometry_of(image)
    if reference is None:
        return path, geometry
    difference = reference[1].difference(geometry, relative_spacing=NNUNET_SPACING_TOLERANCE)
    if difference:
        raise MSTKDError(f"{reference[0]} and {path} differ in {difference}; {ONE_GRID}")
    return reference
