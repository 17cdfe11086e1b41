"""What a study's folder must know of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class DescribedData(ABC):
    """A data set of nnU-Net that a study trains on, before any of it is made.

    Attributes:
        dataset_id, dataset: of nnU-Net.
        configuration: that is trained.
        format: of the release that names and labels follow.
        folds: of the cross-validation; a single one where the patients to evaluate are a set of their own.
        real: whether they are patients, not the phantom.
    """

    dataset_id: int
    dataset: str
    configuration: str
    format: str
    folds: int
    real: ClassVar[bool]

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Return what must not change in a study's folder."""
