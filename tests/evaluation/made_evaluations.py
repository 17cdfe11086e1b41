"""Evaluations made up from seeded numbers, with small segmentations, as `evaluate` would leave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from nnunetv2_mstkd.evaluation.record.record import (
    METRIC_COLUMNS,
    EvaluatedCase,
    EvaluationRecord,
    read_evaluation,
    write_record,
)
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, format_subset

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
SHAPE = (12, 16, 16)  # Z, Y, X


def make_evaluation(
    folder: Path,
    *,
    name: str = "nnUNetTrainerMSTKD__nnUNetMSTKDPlans__3d_fullres",
    patients: int = 6,
    first_patient: int = 0,
    gain: float = 0.0,
    seed: int = 0,
    policy: str = "brats",
    modalities: tuple[str, ...] = BRATS_MODALITIES,
    images: bool = False,
) -> Path:
    """Write an evaluation whose Dice is a patient's and a subset's value plus ``gain`` plus seeded noise."""
    noise = np.random.default_rng(seed)
    subsets = [format_subset(s, modalities) for s in all_subsets(modalities)]
    cases, rows = {}, []
    for number in range(first_patient, first_patient + patients):
        case, patient = f"P-{number:03d}-000", f"P-{number:03d}"
        files = write_images(folder.parent / "images", case, number, modalities) if images else {}
        reference = folder.parent / "images" / f"{case}-seg.nii.gz"
        cases[case] = EvaluatedCase(patient, str(reference), {m: str(p) for m, p in files.items()})
        for subset in subsets:
            count = len(subset.split("+"))
            for region, hardness in zip(REGIONS, (0.0, 0.1, 0.2), strict=True):
                dice = 0.6 + 0.08 * count - hardness + 0.03 * np.sin(number) + gain
                dice = float(np.clip(dice + 0.01 * noise.standard_normal(), 0, 1))
                scores = (dice, 20 * (1 - dice), 900.0, 800.0, 700, 100, 200)
                rows.append((case, patient, subset, region, *scores, policy, name))
            if images:
                write_prediction(folder / "predictions" / subset / f"{case}.nii.gz", number, count)
    record = EvaluationRecord(
        model={"id": f"{seed:02d}" + "ab" * 31, "name": name, "trainer": name.split("__")[0]},
        dataset="Dataset900_Phantom",
        modalities=modalities,
        regions=REGIONS,
        subsets=tuple(subsets),
        cases=cases,
        policy=policy,
        command="nnUNetv2_mstkd evaluate -d 900 -c 3d_fullres -f 0 -o OUT",
        versions={"nnunetv2-mstkd": "0.1.0", "nnunetv2": "2.8.1"},
        region_keys={name: str(labels) for name, labels in REGIONS.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=METRIC_COLUMNS).to_csv(folder / "metrics.csv", index=False)
    write_record(record, folder)
    return folder


def write_images(folder: Path, case: str, seed: int, modalities: tuple[str, ...]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    _write(folder / f"{case}-seg.nii.gz", labels(radius=5))
    files = {m: folder / f"{case}-{m}.nii.gz" for m in modalities}
    for path in files.values():
        _write(path, (100 + 10 * noise.standard_normal(SHAPE) + 30 * (labels(5) > 0)).astype(np.float32))
    return files


def write_prediction(path: Path, seed: int, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, labels(radius=3 + count // 2))


def labels(radius: float) -> np.ndarray:
    """Nested balls: edema around necrosis around an enhancing core."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in SHAPE), indexing="ij"))
    distance = np.sqrt((grid**2).sum(axis=0))
    result = np.zeros(SHAPE, dtype=np.uint8)
    for label, share in ((2, 1.0), (1, 0.7), (3, 0.45)):
        result[distance <= radius * share] = label
    return result


def _write(path: Path, array: np.ndarray) -> None:
    if not path.exists():
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def scored_as_on_disk(folder):
    """Make the table's voxel counts those of the reference files."""
    path = folder / "metrics.csv"
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    record = read_evaluation(folder).record
    arrays = {c: sitk.GetArrayFromImage(sitk.ReadImage(f.reference)) for c, f in record.cases.items()}
    sizes = [
        np.isin(arrays[case], record.regions[region]).sum()
        for case, region in zip(table["case"], table["region"], strict=True)
    ]
    table.assign(tp=0, fn=sizes).to_csv(path, index=False)
    return folder
