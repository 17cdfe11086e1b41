"""``python -m benchmarks.study -o OUT``: run the study, or go on with it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.errors import one_line_errors
from benchmarks.study.data import StudyData
from benchmarks.study.few import LABELLED
from benchmarks.study.parts import ALL_ARMS, DEFAULT_PARTS, PARTS, Part, describe, student_steps
from benchmarks.study.patients import Patients
from benchmarks.study.phantom import Phantom
from benchmarks.study.runs import Run
from benchmarks.study.sizes import PATIENT_CONFIGURATIONS, SIZES
from benchmarks.study.study import Study, run_parts
from benchmarks.study.unlabelled import teacher_of
from benchmarks.study.workplace import Workplace
from nnunetv2_mstkd.datasets.formats import FORMATS
from nnunetv2_mstkd.errors import MSTKDError

PHANTOM = "phantom"
_SEEDS = 3
# A rough rate for the help alone: training on one quiet CPU core, small size, MSTKDNet.
_MINUTES, _STEPS = 4, 800


def _costs() -> str:
    default = f"default: {' '.join(DEFAULT_PARTS)}; of patients without few_labels"
    lines = [f"what the parts cost at the small size, on the phantom ({default}):"]
    for part in PARTS.values():
        runs = part.runs("small", _SEEDS)
        steps = student_steps(runs, SIZES["small"].on_phantom)
        minutes = steps * _MINUTES / _STEPS / 2
        lines.append(
            f"  {part.key}: {part.about}; {len(runs)} runs, {steps:.0f} student steps, about {minutes:.0f}"
            " minutes of training on two cores"
        )
    lines.append(
        f"at about {_MINUTES} minutes per {_STEPS} student steps and quiet core; validation and evaluation of"
        "\neach run come on top. Runs that a folder has already cost nothing: diagnosis shares three arms"
        "\nwith main."
    )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        epilog=_costs(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, help="folder for everything")
    add(
        "--data",
        default=PHANTOM,
        metavar="WHAT",
        help="phantom (default), or a folder of patients with segmentations, which are cross-validated",
    )
    add("--format", choices=FORMATS, help="release that a folder's names and labels follow")
    add(
        "-c", "--configuration", choices=PATIENT_CONFIGURATIONS, default="2d", help="for patients; default 2d"
    )
    add("--folds", type=int, default=3, help="of the patients (default 3)")
    add("--size", choices=SIZES, default="small", help="default small: two CPU cores")
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--jobs", type=int, default=2, help="runs at a time (default 2)")
    add("--parts", nargs="+", choices=PARTS, help="see below")
    add(
        "--arms",
        nargs="+",
        choices=ALL_ARMS,
        metavar="ARM",
        help="only these arms of the parts (short, half and double take challengers too, by name): "
        + " ".join(ALL_ARMS),
    )
    add(
        "--labelled",
        type=int,
        default=LABELLED,
        help=f"patients with a segmentation in the part unlabelled, of each fold's (default {LABELLED})",
    )
    add(
        "--seeds",
        type=int,
        default=_SEEDS,
        help=f"at most so many seeds (default {_SEEDS}); of patients, rounds through all folds",
    )
    add("--list", action="store_true", help="only say what would be run and what it costs")
    return parser


def _data(arguments: argparse.Namespace) -> StudyData:
    """The phantom, or the patients of a folder.

    Raises:
        MSTKDError: a folder's format is not given, or it holds too few patients.
    """
    if arguments.data == PHANTOM:
        return Phantom()
    if arguments.format is None:
        raise MSTKDError(f"--data {arguments.data} needs --format; choose from {', '.join(FORMATS)}")
    return Patients(Path(arguments.data), arguments.format, arguments.configuration, arguments.folds)


def _parts(arguments: argparse.Namespace, data: StudyData) -> list[Part]:
    """The parts that were asked for, or the default ones of the data."""
    if arguments.parts is not None:
        return [PARTS[key] for key in arguments.parts]
    parts = [PARTS[key] for key in DEFAULT_PARTS]
    return [part for part in parts if not (data.real and part.condition.few_labels)]


def _chosen(arguments: argparse.Namespace, parts: Sequence[Part], folds: int) -> list[Run]:
    """The runs that were asked for and those that they need, each once: parts may share some.

    Raises:
        MSTKDError: none.
    """
    runs: dict[str, Run] = {}
    for part in parts:
        for run in part.runs(arguments.size, arguments.seeds, arguments.arms, folds):
            for needed in (teacher_of(run), run):
                if needed is not None:
                    runs.setdefault(needed.plans, needed)
    if not runs:
        named = " ".join(part.key for part in parts)
        raise MSTKDError(f"no run: parts {named} have none of these arms at size {arguments.size}")
    return list(runs.values())


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, then compare."""
    arguments = _parser().parse_args(argv)
    data = _data(arguments)
    training = SIZES[arguments.size].training(data.configuration, patients=data.real)
    parts = _parts(arguments, data)
    runs = _chosen(arguments, parts, data.folds)
    for run in runs:
        if run.seed == 0:
            print(f"{run.condition.name or 'main'}: {describe(run, training)}")
    print(f"{len(runs)} runs, {student_steps(runs, training):.0f} student steps", flush=True)
    if arguments.list:
        return 0
    work = Workplace(arguments.out, data, arguments.size, arguments.device, arguments.jobs)
    study = Study(work, data, arguments.labelled)
    run_parts(study, parts, runs, arguments.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
