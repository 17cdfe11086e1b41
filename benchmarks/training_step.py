"""Time and peak memory of a training step, as ratios to the student's own, or to nnU-Net's.

The trainers are real ones, and so are their steps; only the batch is made up. The checks of gradient shares,
one step of 250, are left out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Timing, compare, parser, publish, report, table
from benchmarks.nnunet_folders import nnunet_folders
from benchmarks.peak_memory import peak_of, printed_by
from benchmarks.plans import (
    CONFIGURATION,
    DATA,
    DATASET,
    MODALITIES,
    dataset_json,
    mstkd_architecture,
    plans,
    stock_architecture,
)
from nnunetv2_mstkd import methods
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY

REFERENCE, STOCK = "student alone", "nnU-Net's own (PlainConvUNet)"
_EPOCHS = 2
_HALF_FULL = {"full_phase": 0.5}


@dataclass(frozen=True)
class Variant:
    """A trainer in one of its phases, and what a step of it may cost.

    Attributes:
        trainer: name of the class.
        epoch: of the ``_EPOCHS`` there are; with a full phase of one half, 0 is in it and 1 is after it.
        settings: for the plans.
        time, memory: largest ratio to the reference that is aimed at.
        stock: the plans name nnU-Net's own network instead of MSTKDNet.
    """

    trainer: str
    epoch: int
    settings: dict[str, Any]
    time: float | None = None
    memory: float | None = None
    stock: bool = False


VARIANTS = {
    REFERENCE: Variant("nnUNetTrainerMSTKD_PlainStudent", 1, _HALF_FULL),
    "MSTKD, full phase": Variant("nnUNetTrainerMSTKD", 0, _HALF_FULL, 1.0),
    "MSTKD, frozen teacher": Variant("nnUNetTrainerMSTKD", 1, _HALF_FULL, 1.45, 1.3),
    "MSTKD, joint teacher": Variant("nnUNetTrainerMSTKDJoint", 1, {}, 2.15, 2.1),
    "MSTKD, shared network": Variant("nnUNetTrainerMSTKDShared", 1, {}),
}
# The other methods at their released widths, on the same plans, and what they are compared with.
OF_METHODS = {STOCK: Variant("nnUNetTrainerFullModality", 1, {}, stock=True)} | {
    method.trainer.removeprefix("nnUNetTrainer"): Variant(method.trainer, 1, {})
    for method in methods.METHODS
    if getattr(method.load(), "network_class", None) is not None
}

ALL = {**VARIANTS, **OF_METHODS}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("training_step", "A training step as ratios to the student's own.")
    add = options.add_argument
    add("--patch", type=int, nargs=3, default=(96, 96, 96), metavar="N", help="voxels (default 96 96 96)")
    add("--batch", type=int, default=2, metavar="N", help="patches (default 2, as nnU-Net plans at least)")
    add("--compile", action="store_true", help="through torch.compile, as nnU-Net does on CUDA")
    add(
        "--methods",
        action="store_true",
        help="nnU-Net's and the other methods' steps, as ratios to nnU-Net's",
    )
    add(
        "--only-memory",
        choices=ALL,
        help="print one variant's peak memory in bytes and end",
    )
    args = options.parse_args(arguments)
    os.environ["nnUNet_compile"] = str(args.compile)  # noqa: SIM112  nnU-Net's own name
    if args.only_memory:
        print(_peak_memory(ALL[args.only_memory], args))
        return 0
    variants, reference = (OF_METHODS, STOCK) if args.methods else (VARIANTS, REFERENCE)
    memory = {name: _memory_in_a_process_of_its_own(name, args) for name in variants}
    with _stepping(variants, args) as steps:
        timings = compare(steps, repeats=args.repeats, device=args.device)
    rows = [_row(name, reference, timings, memory) for name in variants]
    results = {"patch": list(args.patch), "batch": args.batch, "compile": args.compile}
    results |= {"reference": reference, "rows": rows}
    header = ("step", "median (s)", "ratio", "goal", "peak memory (GiB)", "ratio", "goal")
    content = report("training_step", args.device, results)
    publish(content, table(header, [_cells(row) for row in rows]), args.json)
    return 0


@contextmanager
def _stepping(variants: dict[str, Variant], args: Any) -> Iterator[dict[str, Any]]:
    """A step of every variant, on one made-up batch."""
    with nnunet_folders() as folders:
        data = folders.preprocessed / DATASET / DATA
        data.mkdir(parents=True)
        (data / "none.b2nd").touch()  # nnU-Net looks at the names of the files, which nobody opens
        yield {name: partial(_step, _trainer(v, args)) for name, v in variants.items()}


def _trainer(variant: Variant, args: Any) -> tuple[Any, dict[str, Any]]:
    """A trainer in the variant's phase, and its batch."""
    kind = getattr(methods, variant.trainer)
    settings = {"num_epochs": _EPOCHS, **variant.settings}
    settings |= {"gradient_shares_every": 0} if "gradient_shares_every" in kind.settings_read() else {}
    architecture = stock_architecture(args.patch) if variant.stock else mstkd_architecture(args.patch)
    content = plans(architecture, args.patch, args.batch, settings=settings)
    content["continue_training"] = False
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink):
        torch.manual_seed(0)
        trainer = kind(content, CONFIGURATION, 0, dataset_json(), torch.device(args.device))
        trainer.initialize()
        for epoch in range(variant.epoch + 1):
            trainer.current_epoch = epoch
            trainer.on_train_epoch_start()
    return trainer, _batch(trainer, args)


def _batch(trainer: Any, args: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    patch, heads = list(args.patch), trainer.label_manager.num_segmentation_heads
    scales = trainer._get_deep_supervision_scales() or [[1.0] * 3]
    sizes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales]
    targets = [(torch.rand(args.batch, heads, *size, generator=generator) > 0.8).float() for size in sizes]
    mask = torch.ones(args.batch, len(MODALITIES), dtype=torch.bool)
    mask[:, 1:3] = False
    return {
        "data": torch.randn(args.batch, len(MODALITIES), *patch, generator=generator),
        "target": targets if trainer.enable_deep_supervision else targets[0],
        MASK_KEY: mask,
        BATCH_AVAILABLE_KEY: torch.ones_like(mask),
    }


def _step(trainer_and_batch: tuple[Any, dict[str, Any]]) -> float:
    trainer, batch = trainer_and_batch
    return float(trainer.train_step(batch)["loss"])


def _peak_memory(variant: Variant, args: Any) -> int:
    def work() -> None:
        with _stepping({"step": variant}, args) as steps:
            for _ in range(2):  # the optimizer's states exist from the first on
                steps["step"]()

    return peak_of(work, args.device)


def _memory_in_a_process_of_its_own(name: str, args: Any) -> int:
    arguments = ["--only-memory", name, "--device", args.device, "--batch", str(args.batch)]
    arguments += ["--patch", *map(str, args.patch), *(["--compile"] if args.compile else [])]
    return int(printed_by("training_step", arguments))


def _row(name: str, reference: str, timings: dict[str, Timing], memory: dict[str, int]) -> dict[str, Any]:
    variant, base = ALL[name], timings[reference]
    return {
        "step": name,
        "seconds": list(timings[name].seconds),
        "median": timings[name].median,
        "time_ratio": timings[name].median / base.median,
        "time_ratio_of_fastest": min(timings[name].seconds) / min(base.seconds),
        "time_goal": variant.time,
        "memory_bytes": memory[name],
        "memory_ratio": memory[name] / memory[reference],
        "memory_goal": variant.memory,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    goals = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("time_goal", "memory_goal"))
    time_goal, memory_goal = goals
    time = f"{row['median']:.3f}", f"{row['time_ratio']:.2f}", time_goal
    return row["step"], *time, f"{row['memory_bytes'] / 2**30:.2f}", f"{row['memory_ratio']:.2f}", memory_goal


if __name__ == "__main__":
    sys.exit(main())
