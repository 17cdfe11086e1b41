"""Raw data sets that are not BraTS: any channels, any labels, made here and seeded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


LENGTH = "num_epochs=3 num_iterations_per_epoch=2 num_val_iterations_per_epoch=4 save_every=1 seed=1"


def _train(work: Any, data: DataSet, patch: str) -> SimpleNamespace:
    """Plan, preprocess and train as a user would; nothing but dataset.json tells of the modalities."""
    which = f"-d {data.number} -c 3d_fullres"
    work.run(f"nnUNetv2_plan_and_preprocess {which} -npfp 1 -np 1")
    size = f"--patch-size {patch} --batch-size 2 --base-features 4"
    work.run(f"nnUNetv2_mstkd plan {which} {size} --set {LENGTH}")
    names = {"-tr": "nnUNetTrainerMSTKD", "-p": "nnUNetMSTKDPlans"}
    flags = " ".join(f"{flag} {name}" for flag, name in names.items())
    work.run(f"nnUNetv2_train {data.number} 3d_fullres 0 {flags} -device cpu")
    model = work.results / data.folder_name / "nnUNetTrainerMSTKD__nnUNetMSTKDPlans__3d_fullres"
    cases = work.raw / data.folder_name / "imagesTs"
    quick = "-device cpu --disable_tta"
    return SimpleNamespace(
        cases=cases,
        model=model,
        log=next((model / "fold_0").glob("training_log_*.txt")).read_text(),
        predict=f"nnUNetv2_mstkd predict -m {model} {quick}",
        prepare=f"nnUNetv2_mstkd prepare -m {model}",
        stock=f"nnUNetv2_predict {which} {flags} -f 0 {quick}",
        run=work.run,
        run_together=work.run_together,
        root=work.root,
    )


@pytest.fixture(scope="session")
def trained(new_workplace, two_modalities, seven_modalities) -> SimpleNamespace:
    """Both data sets, trained side by side; of the seven modalities one training case lacks three."""
    work = new_workplace("other")
    two_modalities.write(work.raw)
    folder = seven_modalities.write(work.raw)
    for channel in (1, 3, 6):
        path = str(folder / "imagesTr" / f"case_2_{channel:04d}.nii.gz")
        sitk.WriteImage(sitk.ReadImage(path) * 0, path)
    line = work.run("nnUNetv2_mstkd env").stdout
    work.environment["nnUNet_extTrainer"] = shlex.split(line)[1].split("=", 1)[1]
    jobs = ((two_modalities, "16 32 32"), (seven_modalities, "32 32 32"))
    with ThreadPoolExecutor(2) as pool:
        two, seven = pool.map(lambda job: _train(work, *job), jobs)
    return SimpleNamespace(two=two, seven=seven)


def read(folder: Path, case: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}.nii.gz")))


@pytest.fixture(scope="session")
def assert_same():
    """Compare the segmentations of both test cases in two folders."""

    def compare(first: Path, second: Path, cases: Sequence[str] = ("case_5", "case_6")) -> None:
        for case in cases:
            expected = read(first, case)
            assert len(np.unique(expected)) > 1, "nothing was segmented"
            np.testing.assert_array_equal(read(second, case), expected)

    return compare
