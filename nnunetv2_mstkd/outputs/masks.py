"""``masks/CASE/REGION``: a binary file for every region of a case.

In a folder of their own: beside the label maps, tools that go through a folder would take them for cases.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.regions import Regions, region_mask
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path
from nnunetv2_mstkd.inference.writing import MASKS
from nnunetv2_mstkd.outputs.label_maps import LabelMap


def mask_files(folder: Path, case: str, regions: Regions, file_ending: str) -> dict[str, Path]:
    """Map region to its file; characters that a file name cannot have become ``_``."""
    place = folder / MASKS / case
    names = {region: re.sub(r"[^\w.+-]", "_", region) for region in regions}
    if len(set(names.values())) < len(names):
        names = {region: f"{i}_{name}" for i, (region, name) in enumerate(names.items(), start=1)}
    return {region: place / f"{name}{file_ending}" for region, name in names.items()}


def write_masks(label_map: LabelMap, regions: Regions, files: dict[str, Path]) -> None:
    """Write 0 and 1 (uint8) for every region, on the grid of the label map.

    Raises:
        MSTKDError: a file cannot be written.
    """
    for region, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = sitk.GetImageFromArray(region_mask(label_map.array, regions[region]).astype(np.uint8))
        mask.CopyInformation(label_map.image)
        try:
            with atomic_path(path) as temporary:
                sitk.WriteImage(mask, str(temporary), True)
        except RuntimeError as error:
            free = shutil.disk_usage(path.parent).free // 2**20
            raise MSTKDError(f"cannot write {path}; is the disk full ({free} MiB free)?") from error
