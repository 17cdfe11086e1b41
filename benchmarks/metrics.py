"""Speed of HD95 and Dice against MedPy, on one case of BraTS size, in one process.

The reference is a synthetic tumour, or the segmentation of a real case. Two predictions are made from it: the
reference moved by some voxels, and the same with a few false voxels far away, so that the box around
both masks spans most of the volume.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from medpy.metric.binary import dc
from medpy.metric.binary import hd95 as medpy_hd95
from scipy.ndimage import gaussian_filter

from benchmarks.errors import one_line_errors
from benchmarks.harness import compare, parser, publish, report, table
from nnunetv2_mstkd.datasets.regions import region_mask
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.hausdorff import hd95
from nnunetv2_mstkd.evaluation.metrics.lesionwise import DEFAULT_RULES, RULES
from nnunetv2_mstkd.evaluation.metrics.overlap import count_overlap, dice
from nnunetv2_mstkd.evaluation.metrics.scores import score_arrays

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
SHAPE = (155, 240, 240)  # Z, Y, X
_SHIFT = (1, 3, -2)  # voxels


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("metrics", "Speed of HD95 and Dice against MedPy.", devices=("cpu",))
    options.add_argument(
        "--case", type=Path, metavar="FOLDER", help="a case with a *seg.nii.gz (BraTS labels)"
    )
    options.add_argument(
        "--shape", type=int, nargs=3, default=SHAPE, metavar="N", help="of the synthetic case"
    )
    args = options.parse_args(arguments)
    reference, spacing = _read(args.case) if args.case else (synthetic_tumour(tuple(args.shape)), (1.0,) * 3)
    rows = [
        row
        for name, prediction in predictions(reference).items()
        for row in _measure(name, prediction, reference, spacing, args.repeats)
    ]
    case = {
        "source": "real case" if args.case else "synthetic",
        "shape": list(reference.shape),
        "spacing": list(spacing),
    }
    content = report("metrics", args.device, {"case": case, "rows": rows}, packages=("medpy",))
    header = ("prediction, measure", "ours (s)", "MedPy (s)", "ratio", "largest difference")
    publish(content, table(header, [_cells(row) for row in rows]), args.json)
    return 0


def synthetic_tumour(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Labels of an uneven tumour with edema (2), enhancing rim (3) and core (1): uint8 of ``shape``."""
    axes = np.meshgrid(*((np.arange(n) - 0.45 * n) / (0.16 * n) for n in shape), indexing="ij", sparse=True)
    uneven = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), min(shape) / 40)
    depth = np.sqrt(sum(axis**2 for axis in axes)) + 0.25 * uneven / uneven.std()
    labels = np.zeros(shape, dtype=np.uint8)
    for label, radius in ((2, 1.0), (3, 0.7), (1, 0.45)):
        labels[depth < radius] = label
    return labels


def predictions(reference: np.ndarray) -> dict[str, np.ndarray]:
    """Two predictions of a reference, by name."""
    near = np.roll(reference, _SHIFT, axis=(0, 1, 2))
    far = near.copy()
    for share in (0.1, 0.9):
        far[tuple(slice(int(share * n), int(share * n) + 2) for n in far.shape)] = 3
    return {"near": near, "with far voxels": far}


def _read(folder: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    files = sorted(folder.glob("*seg.nii.gz"))
    if len(files) != 1:
        raise MSTKDError(f"{folder} has {len(files)} files *seg.nii.gz; give the folder of one labelled case")
    image = sitk.ReadImage(str(files[0]))
    return sitk.GetArrayFromImage(image).astype(np.uint8), tuple(reversed(image.GetSpacing()))


def _measure(
    name: str, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], repeats: int
) -> list[dict[str, Any]]:
    """One row per measure and region, and one for all that an evaluation computes of a case."""
    masks = {r: (region_mask(prediction, v), region_mask(reference, v)) for r, v in REGIONS.items()}
    rows = []
    for region, (predicted, wanted) in masks.items():
        pair = predicted, wanted
        measures: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "HD95": (partial(hd95, *pair, spacing), partial(medpy_hd95, *pair, voxelspacing=spacing)),
            "Dice": (partial(_our_dice, *pair), partial(dc, *pair)),
        }
        for measure, (ours, theirs) in measures.items():
            rows.append(_row(f"{name}, {measure} {region}", ours, theirs, repeats))

    def score(**options: Any) -> list[float | None]:
        scores = score_arrays(prediction, reference, spacing, REGIONS, **options).values()
        return [v for s in scores for v in (dice(s.tp, s.fp, s.fn), s.hd95)]

    def score_with_medpy() -> list[float]:
        pairs = [(region_mask(prediction, v), region_mask(reference, v)) for v in REGIONS.values()]
        return [v for p, w in pairs for v in (dc(p, w), medpy_hd95(p, w, voxelspacing=spacing))]

    rows.append(_row(f"{name}, all of a case", score, score_with_medpy, repeats))
    rules = RULES[DEFAULT_RULES]
    rows.append(_row(f"{name}, all and lesion-wise", lambda: score(lesion_rules=rules), None, repeats))
    return rows


def _our_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    return dice(*count_overlap(prediction, reference))


def _row(
    measure: str, ours: Callable[[], Any], theirs: Callable[[], Any] | None, repeats: int
) -> dict[str, Any]:
    timings = compare({"ours": ours} if theirs is None else {"ours": ours, "medpy": theirs}, repeats=repeats)
    row: dict[str, Any] = {"measure": measure, "seconds": {n: list(t.seconds) for n, t in timings.items()}}
    row["median"] = {n: t.median for n, t in timings.items()}
    if theirs is not None:
        row["ratio"] = timings["ours"].median / timings["medpy"].median
        difference = np.subtract(timings["ours"].result, timings["medpy"].result)
        row["largest_difference"] = float(np.max(np.abs(difference)))
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    median = row["median"]
    if "medpy" not in median:
        return row["measure"], f"{median['ours']:.4f}", "-", "-", "-"
    numbers = f"{median['ours']:.4f}", f"{median['medpy']:.4f}", f"{row['ratio']:.4f}"
    return row["measure"], *numbers, f"{row['largest_difference']:.1e}"


if __name__ == "__main__":
    sys.exit(main())
