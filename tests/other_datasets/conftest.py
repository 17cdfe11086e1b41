"""Raw data sets that are not BraTS: any channels, any labels, made here and seeded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from tiny_model import files  # noqa: F401  fixture


@dataclass(frozen=True)
class DataSet:
    """What a raw data set is made of.

    Attributes:
        number, name: of its folder.
        channels: names in dataset.json; nnU-Net chooses the normalisation by them.
        labels: the ``labels`` of dataset.json.
        regions_class_order: None without regions.
        shape: (Z, Y, X) voxels.
        spacing: (x, y, z) in mm.
        rings: nested label values from the outermost inwards.
    """

    number: int
    name: str
    channels: Sequence[str]
    labels: Mapping[str, object]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    rings: Sequence[int]
    regions_class_order: Sequence[int] | None = None

    @property
    def folder_name(self) -> str:
        return f"Dataset{self.number:03d}_{self.name}"

    def write(self, raw: Path, *, cases: int = 5, test_cases: int = 2) -> Path:
        """Write it below ``raw``, with test cases in imagesTs."""
        folder = raw / self.folder_name
        for sub in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / sub).mkdir(parents=True)
        for index in range(cases + test_cases):
            images = "imagesTr" if index < cases else "imagesTs"
            segmentation, volumes = self.case(seed=100 * self.number + index)
            for channel, volume in enumerate(volumes):
                self._save(volume, folder / images / f"case_{index}_{channel:04d}.nii.gz")
            if index < cases:
                self._save(segmentation, folder / "labelsTr" / f"case_{index}.nii.gz")
        content = {
            "channel_names": {str(i): name for i, name in enumerate(self.channels)},
            "labels": self.labels,
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        if self.regions_class_order is not None:
            content["regions_class_order"] = list(self.regions_class_order)
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    def case(self, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Segmentation (Z, Y, X) and a volume per channel: a body with nested rings; zero around it, except
        in CT, where air is -1000."""
        rng = np.random.default_rng(seed)
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in self.shape), indexing="ij"))
        body = np.linalg.norm(grid, axis=0) < 0.9
        centre = rng.uniform(-0.2, 0.2, size=(3, 1, 1, 1))
        distance = np.linalg.norm(grid - centre, axis=0)
        segmentation = np.zeros(self.shape, dtype=np.uint8)
        for step, value in enumerate(self.rings):
            segmentation[distance < 0.55 - 0.15 * step] = value
        volumes = []
        for channel, name in enumerate(self.channels):
            field = gaussian_filter(rng.normal(size=self.shape), 1.5)
            inside = (
                300 + 60 * field / field.std() + 80 * (segmentation == self.rings[channel % len(self.rings)])
            )
            if name == "CT":
                volume = np.where(body, inside - 250, -1000)
            elif name == "noNorm":
                volume = np.where(body, inside / 400, 0)
            else:
                volume = np.where(body, np.maximum(inside, 1), 0)
            volumes.append(volume.astype(np.float32))
        return segmentation, volumes

    def _save(self, array: np.ndarray, path: Path) -> None:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin((4.0, -3.0, 12.5))
        sitk.WriteImage(image, str(path))


@pytest.fixture(scope="session")
def two_modalities() -> DataSet:
    """Plain labels, thick slices."""
    return DataSet(
        number=702,
        name="Prostate",
        channels=("T2", "ADC"),
        labels={"background": 0, "gland": 1, "lesion": 2},
        shape=(16, 40, 44),
        spacing=(0.8, 0.8, 2.0),
        rings=(1, 2),
    )


@pytest.fixture(scope="session")
def seven_modalities() -> DataSet:
    """Regions, every normalisation that nnU-Net chooses by name, and names with spaces."""
    return DataSet(
        number=707,
        name="Seven",
        channels=("T1", "CT", "rescale_to_0_1", "noNorm", "DCE late", "T2*", "b1400"),
        labels={"background": 0, "organ": [1, 2, 3], "tumour": [2, 3], "necrosis": [3]},
        regions_class_order=(1, 2, 3),
        shape=(36, 40, 38),
        spacing=(1.0, 1.0, 1.0),
        rings=(1, 2, 3),
    )
