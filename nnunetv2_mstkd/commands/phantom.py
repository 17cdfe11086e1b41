"""``nnUNetv2_mstkd phantom``: a small synthetic BraTS-like data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd phantom",
        description="Writes synthetic patients in BraTS 2023 folders, for trying things out.",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the case folders")
    parser.add_argument("--cases", type=int, default=10, help="number of patients (default 10)")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=(64, 64, 64),
        metavar=("X", "Y", "Z"),
        help="voxels (default 64³)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same voxels (default 0)")
    parser.add_argument(
        "--missing",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="leave out this share of sequence files",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a phantom that is in the folder")
    parser.add_argument("--num-processes", type=int, default=1, help="processes (default 1)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Write the phantom and say where it is."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.phantom.phantom import write_phantom

    folders = write_phantom(
        arguments.output,
        cases=arguments.cases,
        shape=arguments.shape,
        seed=arguments.seed,
        missing=arguments.missing,
        overwrite=arguments.overwrite,
        num_processes=arguments.num_processes,
    )
    shape = "x".join(map(str, arguments.shape))
    print(f"{arguments.output}: {len(folders)} synthetic cases of {shape} voxels, seed {arguments.seed}")
    return 0
