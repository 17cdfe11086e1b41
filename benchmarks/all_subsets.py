"""``evaluate`` of one case under all 15 subsets, against 15 times ``predict`` and scoring.

The model is untrained, with the plans of ``whole_case``. What the single runs repeat is starting, loading,
reading and preprocessing. The network's work is the same on both sides, so the ratio depends on its share.
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import one_line_errors
from benchmarks.harness import parser, publish, report, table
from benchmarks.measured_command import Measured, measure_command
from benchmarks.plans import MODALITIES, mstkd_architecture, plans
from benchmarks.untrained import case_folder, write_model
from benchmarks.whole_case import OURS_PATCH, command_environment
from nnunetv2_mstkd.engines import ENGINES, TORCH
from nnunetv2_mstkd.modalities import all_subsets, format_subset

GOAL = 0.5
TOGETHER, PREDICT, SCORE = "evaluate, all at once", "predict, one by one", "score, one by one"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("all_subsets", "One evaluation of all subsets against a run for each.")
    add = options.add_argument
    add("--case", type=Path, metavar="FOLDER", help="a BraTS 2023 case (default: a phantom)")
    add("--patch", type=int, nargs=3, default=OURS_PATCH, metavar="N", help="of the plans")
    add("--mirroring", action="store_true", help="with mirrored copies: eight times the network's work")
    add("--engine", choices=ENGINES, default=TORCH, help="what runs the network (default torch)")
    options.set_defaults(repeats=1)
    args = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mstkd_benchmark_") as folder:
        results = run(Path(folder), args)
    rows = [(name, f"{seconds:.1f}") for name, seconds in results["seconds"].items()]
    publish(report("all_subsets", args.device, results), table(("", "wall time (s)"), rows), args.json)
    print(f"ratio {results['ratio']:.3f} (goal at most {GOAL})")
    return 0


def run(work: Path, args: Any) -> dict[str, Any]:
    """Both ways, one after the other."""
    case = case_folder(args.case, work)
    cases, labels = work / "cases", work / "labels"
    for folder in (cases, labels):
        folder.mkdir()
    (cases / case.name).symlink_to(case)
    (labels / f"{case.name}.nii.gz").symlink_to(next(case.glob("*-seg.nii.gz")))
    our_plans = plans(mstkd_architecture(args.patch), args.patch, 2, name="nnUNetMSTKDPlans")
    model = write_model(
        work / "nnUNetTrainerMSTKD__nnUNetMSTKDPlans__3d_fullres", our_plans, "nnUNetTrainerMSTKD"
    )
    how = ["-f", "0", "-device", args.device, "--engine", args.engine]
    how += [] if args.mirroring else ["--disable_tta"]
    with_model = ["-m", str(model), *how]
    together = ["evaluate", *with_model, "--cases", str(cases), "-o", str(work / "together")]
    seconds = {TOGETHER: _run(work, "together", together).seconds, PREDICT: 0.0, SCORE: 0.0}
    for subset in all_subsets(MODALITIES):
        name = format_subset(subset, MODALITIES)
        names, out = [m for m in MODALITIES if m in subset], work / "single" / name
        predict = ["predict", "-i", str(cases), "-o", str(out), *with_model, "--modalities", *names]
        score = ["evaluate", "--predictions", str(out), "--labels", str(labels)]
        score += ["-o", str(work / "scores" / name), "--subsets", name]
        seconds[PREDICT] += _run(work, f"predict_{name}", predict).seconds
        seconds[SCORE] += _run(work, f"score_{name}", score).seconds
    return {
        "case": "real case" if args.case else "phantom",
        "patch": list(args.patch),
        "mirroring": args.mirroring,
        "engine": args.engine,
        "seconds": seconds,
        "ratio": seconds[TOGETHER] / (seconds[PREDICT] + seconds[SCORE]),
    }


def _run(work: Path, log: str, arguments: Sequence[str]) -> Measured:
    program = str(Path(sysconfig.get_path("scripts"), "nnUNetv2_mstkd"))
    return measure_command([program, *arguments], command_environment(work), work / f"{log}.log")


if __name__ == "__main__":
    sys.exit(main())
