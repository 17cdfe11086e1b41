"""Segmentation files as they are scored: whole numbers that the data set knows, on one grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mstkd.datasets.nifti import check_voxels
from nnunetv2_mstkd.errors import MSTKDError

DIMENSIONS = (2, 3)  # numbers of axes that a segmentation may have


@dataclass(frozen=True)
class LabelFile:
    """A segmentation on disk.

    Attributes:
        path: the file.
        label_map: value in the file → value in the model's data set; None where they are the same.
    """

    path: Path
    label_map: Mapping[int, int] | None = None

    def read(self, reader: type, known: Collection[int]) -> tuple[np.ndarray, tuple[float, ...]]:
        """Read labels (Z, Y, X) in the values of the model's data set, and the spacing of these axes in mm.

        Args:
            reader: nnU-Net's reader class of the data set.
            known: the values that the data set has.

        Raises:
            MSTKDError: the file cannot be read, or has a value that nobody knows: counted as background, it
                would make a wrong score that looks like any other.
        """
        check_voxels(self.path)
        try:
            array, properties = reader().read_seg(str(self.path))
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise MSTKDError(f"cannot read {self.path}: {reason[-1]}") from None
        labels = np.round(array[0]).astype(np.int32)
        if not np.array_equal(labels, array[0]):
            raise MSTKDError(f"{self.path} has values between integers; it was resampled, use the original")
        self._check_values(labels, known)
        return mapped(labels, self.label_map), tuple(float(length) for length in properties["spacing"])

    def _check_values(self, labels: np.ndarray, known: Collection[int]) -> None:
        expected = known if self.label_map is None else self.label_map.keys()
        unknown = sorted(set(np.unique(labels).tolist()).difference(expected))
        if not unknown:
            return
        values = ", ".join(map(str, sorted(expected)))
        if self.label_map is None:
            raise MSTKDError(
                f"{self.path} has the label {unknown[0]}; the data set has {values} (references with the"
                " values of its source need --source_labels)"
            )
        raise MSTKDError(f"{self.path} has the label {unknown[0]}; the data set's source has {values}")


def mapped(labels: np.ndarray, label_map: Mapping[int, int] | None) -> np.ndarray:
    """Translate labels, any shape, into other values; 0 where the map has none, unchanged without a map."""
    if label_map is None:
        return labels
    result = np.zeros_like(labels)
    for source, target in label_map.items():
        result[labels == source] = target
    return result
