"""``python -m benchmarks.phantom_study -o OUT``: run the study, or go on with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.phantom_study.arms import ARMS, SIZES, compute_of, epochs_of
from benchmarks.phantom_study.study import Run, Study


def main() -> None:
    """Run what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--size", choices=SIZES, default="small", help="default small: two CPU cores")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, default=3, help="at most so many seeds (default 3)")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    for arm in (ARMS[key] for key in arguments.arms):
        full, masked = epochs_of(arm, size.epochs)
        steps = (full + masked) * size.steps
        cost = compute_of(arm, size.epochs) * size.steps
        print(f"{arm.title}: {full} + {masked} epochs, {steps} steps, compute of {cost:.0f} student steps")
    runs = [
        Run(ARMS[key], seed)
        for seed in range(arguments.seeds)
        for key in arguments.arms
        if seed < ARMS[key].seeds
    ]
    study = Study(arguments.out, size, arguments.device, arguments.jobs)
    study.make_data()
    study.compare(study.train_all(runs))


if __name__ == "__main__":
    main()
