"""How alike two folders of segmentations of one model are: equal voxels, and Dice of every region.

For whatever should change nothing: another engine, another machine, another version.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.errors import one_line_errors
from benchmarks.harness import parser, publish, report, table
from nnunetv2_mstkd.datasets.regions import region_mask, regions_of
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.overlap import count_overlap, dice
from nnunetv2_mstkd.files import read_json

VOXELS_GOAL, DICE_GOAL = 0.9999, 0.9995


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("agreement", "Compare two folders that predict has written.", devices=("cpu",))
    options.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    args = options.parse_args(arguments)
    first, second = args.folders
    regions = regions_of(read_json(first / "dataset.json"))
    ending = read_json(first / "dataset.json")["file_ending"]
    names = sorted(path.name for path in first.glob(f"*{ending}"))
    if not names or names != sorted(path.name for path in second.glob(f"*{ending}")):
        raise MSTKDError(f"{first} and {second} do not hold the same segmentations (*{ending})")
    equal, voxels = 0, 0
    of_region: dict[str, list[float]] = {region: [] for region in regions}
    for name in names:
        one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(f / name))) for f in (first, second))
        equal, voxels = equal + int(np.count_nonzero(one == other)), voxels + one.size
        for region, labels in regions.items():
            overlap = count_overlap(region_mask(one, labels), region_mask(other, labels))
            of_region[region].append(dice(*overlap) if any(overlap) else 1.0)
    rows = [("equal voxels", f"{equal / voxels:.6f}", "-", f"{VOXELS_GOAL}")]
    rows += [(r, f"{min(v):.5f}", f"{np.mean(v):.5f}", f"{DICE_GOAL}") for r, v in of_region.items()]
    results = {"cases": len(names), "equal_voxels": equal / voxels, "dice": of_region}
    header = (f"{len(names)} cases", "share, or lowest Dice", "mean Dice", "goal")
    publish(report("agreement", "cpu", results), table(header, rows), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
