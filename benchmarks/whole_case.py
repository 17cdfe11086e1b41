"""A whole case through nnU-Net's sliding window: stock nnU-Net's plans against ours, command against command.

Both models are untrained. ``--case`` takes a real BraTS 2023 case; else a phantom of that size is made. The
patches are those that the planners choose for 8 GB and a BraTS case.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.errors import one_line_errors
from benchmarks.harness import parser, publish, report, table
from benchmarks.measured_command import Measured, measure_command
from benchmarks.plans import STOCK_PATCH, mstkd_architecture, plans, stock_architecture
from benchmarks.untrained import case_folder, flat_folder, write_model
from nnunetv2_mstkd.engines import ENGINES
from nnunetv2_mstkd.engines.converted_models import FOLDER_VARIABLE
from nnunetv2_mstkd.environment import external_trainer_paths
from nnunetv2_mstkd.errors import MSTKDError

TIME_GOAL, MEMORY_GOAL = 0.30, 1.0
STOCK, OURS, OURS_BY_STOCK = "stock nnU-Net", "MSTKD", "MSTKD, by nnUNetv2_predict"
STOCK_BY_OURS = "stock nnU-Net, by nnUNetv2_mstkd"
_CONVERTING = ", the first time"
OURS_PATCH = (160, 160, 128)
_CACHE = "cache"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("whole_case", "Wall time and memory of predicting one case.")
    add = options.add_argument
    add("--case", type=Path, metavar="FOLDER", help="a BraTS 2023 case (default: a phantom)")
    add("--stock-patch", type=int, nargs=3, default=STOCK_PATCH, metavar="N")
    add("--patch", type=int, nargs=3, default=OURS_PATCH, metavar="N", help="of the MSTKD plans")
    add("--disable_tta", action="store_true", help="without mirrored copies")
    add("--engine", choices=ENGINES[1:], help="by nnUNetv2_mstkd with this engine as well")
    add("--own-commands", action="store_true", help="each model by the command of its package only")
    add("--out", type=Path, metavar="FOLDER", help="keep models, logs and segmentations here")
    options.set_defaults(repeats=1)
    args = options.parse_args(arguments)
    if args.out is None:
        with tempfile.TemporaryDirectory(prefix="mstkd_benchmark_") as folder:
            results = run(Path(folder), args)
    else:
        if args.out.exists():
            raise MSTKDError(f"{args.out} exists; give --out a new folder")
        args.out.mkdir(parents=True)
        results = run(args.out.resolve(), args)
    header = ("command", "wall time (s)", "ratio", "goal", "peak memory (GiB)", "ratio", "goal")
    content = report("whole_case", args.device, results)
    publish(content, table(header, [_cells(row) for row in results["rows"]]), args.json)
    for name, share in results["different_voxels"].items():
        print(f"voxels that differ, {name}: {share:.2e}")
    return 0


def run(work: Path, args: Any) -> dict[str, Any]:
    """Predict with every command, ``--repeats`` times in turns."""
    case = case_folder(args.case, work)
    flat = flat_folder(case, work / "flat")
    stock_plans = plans(stock_architecture(args.stock_patch), args.stock_patch, 2)
    our_plans = plans(mstkd_architecture(args.patch), args.patch, 2, name="nnUNetMSTKDPlans")
    stock = write_model(work / "nnUNetTrainer__nnUNetPlans__3d_fullres", stock_plans, "nnUNetTrainer")
    ours = write_model(
        work / "nnUNetTrainerMSTKD__nnUNetMSTKDPlans__3d_fullres", our_plans, "nnUNetTrainerMSTKD"
    )
    by_stock = "nnUNetv2_predict_from_modelfolder"
    by_ours = "nnUNetv2_mstkd predict"
    commands: dict[str, tuple[str, Path, Path]] = {
        STOCK: (by_stock, flat, stock),
        OURS: (by_ours, case, ours),
    }
    same = {}
    if not args.own_commands:
        commands[OURS_BY_STOCK] = by_stock, flat, ours
        same["the same model by both commands"] = OURS, OURS_BY_STOCK
    if args.engine:
        by_engine, with_models = f"{by_ours} --engine {args.engine}", {OURS: ours}
        if not args.own_commands:
            commands[STOCK_BY_OURS], with_models[STOCK_BY_OURS] = (by_ours, case, stock), stock
        for name, model in with_models.items():
            with_engine = f"{name}, {args.engine}"
            commands[with_engine + _CONVERTING] = commands[with_engine] = by_engine, case, model
            same[f"{name} with and without {args.engine}"] = name, with_engine
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    for turn in range(args.repeats):
        for name, (program, source, model) in commands.items():
            out = work / f"{_slug(name)}_{turn}"
            command = _command(program, source, out, model, args)
            if name.endswith(_CONVERTING):
                shutil.rmtree(work / _CACHE, ignore_errors=True)
            measured[name].append(
                measure_command(command, command_environment(work), work / f"{_slug(name)}_{turn}.log")
            )
    last = args.repeats - 1
    arrays = {name: _segmentation(work / f"{_slug(name)}_{last}") for name in commands}
    return {
        "case": {"source": "real case" if args.case else "phantom", "shape": list(arrays[OURS].shape)},
        "mirroring": not args.disable_tta,
        "patches": {STOCK: list(args.stock_patch), OURS: list(args.patch)},
        "rows": [_row(name, measured) for name in commands],
        "different_voxels": {what: float(np.mean(arrays[a] != arrays[b])) for what, (a, b) in same.items()},
    }


def _command(program: str, source: Path, out: Path, model: Path, args: Any) -> list[str]:
    name, *sub_command = program.split()
    command = [str(Path(sysconfig.get_path("scripts"), name)), *sub_command]
    command += ["-i", str(source), "-o", str(out), "-m", str(model), "-f", "0", "-device", args.device]
    return command + (["--disable_tta"] if args.disable_tta else [])


def command_environment(work: Path) -> dict[str, str]:
    """Without the pages that the benchmarks ask for: each command has what it asks for itself."""
    environment = {**os.environ, "nnUNet_extTrainer": external_trainer_paths()}
    environment.pop("THP_MEM_ALLOC_ENABLE", None)
    environment[FOLDER_VARIABLE] = str(work / _CACHE)
    return environment | {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def _segmentation(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(next(folder.glob("*.nii.gz")))))


def _row(name: str, measured: dict[str, list[Measured]]) -> dict[str, Any]:
    seconds = {key: median(m.seconds for m in values) for key, values in measured.items()}
    peaks = {key: max(m.peak_bytes or 0 for m in values) for key, values in measured.items()}
    return {
        "command": name,
        "seconds": [m.seconds for m in measured[name]],
        "median": seconds[name],
        "time_ratio": seconds[name] / seconds[STOCK],
        "peak_bytes": peaks[name],
        "memory_ratio": peaks[name] / peaks[STOCK] if peaks[STOCK] else None,
        "goals": [TIME_GOAL, MEMORY_GOAL] if name == OURS else None,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    time_goal, memory_goal = (f"{goal:.2f}" for goal in row["goals"]) if row["goals"] else ("-", "-")
    memory_ratio = "-" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}"
    time = f"{row['median']:.1f}", f"{row['time_ratio']:.3f}", time_goal
    return row["command"], *time, f"{row['peak_bytes'] / 2**30:.2f}", memory_ratio, memory_goal


if __name__ == "__main__":
    sys.exit(main())
