"""What the Python interface returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.measuring import RegionStatistics, measure_regions
from nnunetv2_mstkd.inference.selection import ModalityUse
from nnunetv2_mstkd.trust import Expected


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """A segmentation on the grid of the images it was made from; of 2D images without the Z and z below.

    Attributes:
        array: (Z, Y, X) label values of the model's ``dataset.json``, uint8 (uint16 beyond 255 labels).
        spacing: (x, y, z) in mm, as SimpleITK has it: the reverse of the array's axes.
        origin: (x, y, z) in mm.
        direction: nine direction cosines, row by row.
        use: every modality of the model as used, absent (not given), constant (no contrast) or ignored.
        labels: label or region name → the values that belong to it, background included.
        probabilities: (heads, Z, Y, X) float32 if asked for.
        heads: what each head of ``probabilities`` stands for: labels, or regions without the background.
        expected: region → what is expected of it (docs/trust.md); empty where nothing is known.
        agreement: region → mean pairwise Dice of the folds' segmentations; empty for one fold.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    use: ModalityUse
    labels: Mapping[str, tuple[int, ...]]
    probabilities: np.ndarray | None = None
    heads: tuple[str, ...] = ()
    expected: Mapping[str, Expected] = field(default_factory=dict)
    agreement: Mapping[str, float] = field(default_factory=dict)

    @property
    def used(self) -> tuple[str, ...]:
        """The modalities that the network saw, in channel order."""
        return self.use.used

    @property
    def absent(self) -> tuple[str, ...]:
        """The model's other modalities, in channel order: not given, or without contrast."""
        return (*self.use.absent, *self.use.constant)

    def mask(self, name: str) -> np.ndarray:
        """Voxels (Z, Y, X), bool, of a label or a region.

        Raises:
            MSTKDError: the model has no such label; the message lists those it has.
        """
        if name not in self.labels:
            raise MSTKDError(f"unknown label '{name}'; this model has {', '.join(self.labels)}")
        return np.isin(self.array, self.labels[name])

    def statistics(self) -> dict[str, RegionStatistics]:
        """Volume, lesions and centroid of every label or region, without the background."""
        regions = {name: values for name, values in self.labels.items() if values != (0,)}
        return measure_regions(self.array, regions, self.spacing, self.origin, self.direction)

    def to_image(self) -> sitk.Image:
        """The segmentation as a SimpleITK image, with its geometry."""
        image = sitk.GetImageFromArray(self.array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image
