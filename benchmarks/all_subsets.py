"""``evaluate`` of one case under all 15 subsets, against 15 times ``predict`` and scoring.

The model is untrained, with the plans of ``whole_case``. What the single runs repeat is starting, loading,
reading and preprocessing. The network's work is the same on both sides, so the ratio depends on its share; an
``--engine`` lessens it for a second evaluation, against the same single runs in PyTorch.

With mirroring all fifteen take more than an hour. ``--subsets 3`` takes three of them: what ``evaluate`` does
once is then shared among three runs and not among fifteen, so the ratio comes out higher.
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
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import Subset, all_subsets, format_subset

GOAL = 0.5
TOGETHER, PREDICT, SCORE = "evaluate, all at once", "predict, one by one", "score, one by one"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("all_subsets", "One evaluation of all subsets against a run for each.")
    add = options.add_argument
    add("--case", type=Path, metavar="FOLDER", help="a BraTS 2023 case (default: a phantom)")
    add("--patch", type=int, nargs=3, default=OURS_PATCH, metavar="N", help="of the plans")
    add("--mirroring", action="store_true", help="with mirrored copies: eight times the network's work")
    add("--subsets", type=int, default=15, metavar="N", help="only N of the 15, from small to large")
    add("--engine", choices=ENGINES[1:], help="a second evaluation by this engine")
    options.set_defaults(repeats=1)
    args = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mstkd_benchmark_") as folder:
        results = run(Path(folder), args)
    ratios = {name: f"{ratio:.3f}" for name, ratio in results["ratios"].items()}
    rows = [(name, f"{took:.1f}", ratios.get(name, "")) for name, took in results["seconds"].items()]
    heads = ("", "wall time (s)", "of one by one")
    publish(report("all_subsets", args.device, results), table(heads, rows), args.json)
    print(f"goal without mirroring: at most {GOAL}")
    return 0


def run(work: Path, args: Any) -> dict[str, Any]:
    """All ways, one after the other."""
    subsets = _spread(all_subsets(MODALITIES), args.subsets)
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
    with_model = ["-m", str(model), "-f", "0", "-device", args.device]
    with_model += [] if args.mirroring else ["--disable_tta"]
    names = {format_subset(subset, MODALITIES): subset for subset in subsets}
    seconds = {}
    for engine in [TORCH, *([args.engine] if args.engine else [])]:
        way = TOGETHER if engine == TORCH else f"{TOGETHER}, {engine}"
        out = ["-o", str(work / f"together_{engine}"), "--engine", engine]
        evaluate = ["evaluate", *with_model, "--cases", str(cases), "--subsets", *names, *out]
        seconds[way] = _run(work, f"together_{engine}", evaluate).seconds
    together = list(seconds)
    seconds |= {PREDICT: 0.0, SCORE: 0.0}
    for name, subset in names.items():
        wanted, single = [m for m in MODALITIES if m in subset], str(work / "single" / name)
        predict = ["predict", "-i", str(cases), "-o", single, *with_model, "--modalities", *wanted]
        score = ["evaluate", "--predictions", single, "--labels", str(labels)]
        score += ["-o", str(work / "scores" / name), "--subsets", name]
        seconds[PREDICT] += _run(work, f"predict_{name}", predict).seconds
        seconds[SCORE] += _run(work, f"score_{name}", score).seconds
    return {
        "case": "real case" if args.case else "phantom",
        "patch": list(args.patch),
        "mirroring": args.mirroring,
        "subsets": list(names),
        "seconds": seconds,
        "ratios": {way: seconds[way] / (seconds[PREDICT] + seconds[SCORE]) for way in together},
    }


def _spread(subsets: Sequence[Subset], number: int) -> list[Subset]:
    """As many of the subsets, evenly from the first to the last."""
    if not 1 < number <= len(subsets):
        raise MSTKDError(f"--subsets {number}: give 2 to {len(subsets)}")
    return [subsets[round(i * (len(subsets) - 1) / (number - 1))] for i in range(number)]


def _run(work: Path, log: str, arguments: Sequence[str]) -> Measured:
    program = str(Path(sysconfig.get_path("scripts"), "nnUNetv2_mstkd"))
    return measure_command([program, *arguments], command_environment(work), work / f"{log}.log")


if __name__ == "__main__":
    sys.exit(main())
