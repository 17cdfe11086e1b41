"""Start-up: ``nnUNetv2_mstkd --help``, and how long ``predict`` takes until it opens the first image.

The two predict commands get the same small case and the same untrained MSTKDNet, once with this plugin's
trainer and once with nnU-Net's own. A run ends when it opens an image after the checkpoint. Linux only
(inotify).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.errors import one_line_errors
from benchmarks.file_watch import Waiting, Watch, watching
from benchmarks.harness import Timing, compare, parser, publish, report, table
from benchmarks.nnunet_folders import nnunet_folders
from benchmarks.plans import CONFIGURATION, DATASET, mstkd_architecture, plans
from benchmarks.untrained import small_case, write_model
from nnunetv2_mstkd.environment import external_trainer_paths
from nnunetv2_mstkd.errors import MSTKDError

PATCH = (32, 32, 32)
_PLANS = "nnUNetMSTKDPlans"
TRAINERS = ("nnUNetTrainerMSTKD", "nnUNetTrainer")
PREDICT = {"ours": ("nnUNetv2_mstkd", "predict"), "nnunet": ("nnUNetv2_predict",)}
_TIMEOUT = 600  # seconds; a start takes a few
_POLL = 0.2  # seconds between two looks whether the command still lives; an opening is seen at once
_IMPORT_TIMES = {"PYTHONPROFILEIMPORTTIME": "1"}  # of this process and of those that it starts


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("start_up", "Time until --help is printed and predict opens an image.", devices=("cpu",))
    options.add_argument(
        "--trainers", nargs="*", choices=TRAINERS, default=TRAINERS, help="of the models (none: help only)"
    )
    args = options.parse_args(arguments)
    results: dict[str, Any] = {"help": measure_help(args.repeats), "predict": []}
    for trainer in args.trainers:
        results["predict"].append(measure_predict(trainer, args.repeats))
    publish(report("start_up", args.device, results), _table(results), args.json)
    return 0


def program(name: str) -> str:
    """An installed command of this Python."""
    return str(Path(sysconfig.get_path("scripts"), name))


def measure_help(repeats: int) -> dict[str, Any]:
    """``--help`` and an empty Python in turns, and whether the help has imported torch."""
    commands = {"help": [program("nnUNetv2_mstkd"), "--help"], "python": [sys.executable, "-c", "pass"]}

    def runner(command: Sequence[str]) -> Callable[[], Any]:
        return lambda: subprocess.run(command, check=True, capture_output=True)

    timings = compare({name: runner(command) for name, command in commands.items()}, repeats=repeats)
    profiled = subprocess.run(
        commands["help"], check=True, capture_output=True, text=True, env=os.environ | _IMPORT_TIMES
    )
    imported = imported_modules(profiled.stderr)
    return {**_timed(timings), "modules": len(imported), "imports_torch": "torch" in imported}


def imported_modules(text: str) -> list[str]:
    """Modules in the order in which ``-X importtime`` lists them; a child's are listed again."""
    lines = (line.rpartition("|")[2].strip() for line in text.splitlines() if line.startswith("import time:"))
    return [name for name in lines if name != "imported package"]


def measure_predict(trainer: str, repeats: int) -> dict[str, Any]:
    """Both commands in turns with one model, and how many modules each imports (all processes together)."""
    with nnunet_folders() as folders:
        folder, environment = folders.root, {**os.environ, "nnUNet_extTrainer": external_trainer_paths()}
        checkpoint, images = untrained_model(folders.results, trainer), small_case(folder / "images", PATCH)
        flags = ["-d", DATASET, "-tr", trainer, "-p", _PLANS, "-c", CONFIGURATION, "-f", "0"]
        flags += ["-i", str(folder / "images"), "-o", str(folder / "out"), "-device", "cpu"]
        commands = {n: [program(words[0]), *words[1:], *flags] for n, words in PREDICT.items()}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(repeats + 1):  # the first round fills the disk cache
            for name, command in commands.items():
                taken, _ = until_opened(command, ([checkpoint], images), environment)
                seconds[name] += [taken] if turn else []
        listings = {
            name: until_opened(command, ([checkpoint], images), environment | _IMPORT_TIMES)[1]
            for name, command in commands.items()
        }
    timings = {name: Timing(tuple(values), None) for name, values in seconds.items()}
    modules = {name: len(imported_modules(text)) for name, text in listings.items()}
    ratio = timings["ours"].median / timings["nnunet"].median
    return {"trainer": trainer, **_timed(timings), "modules": modules, "ratio": ratio}


def untrained_model(results: Path, trainer: str) -> Path:
    """A small model below ``nnUNet_results``; returns its checkpoint."""
    content = plans(mstkd_architecture(PATCH, first_features=4), PATCH, 2, name=_PLANS)
    folder = results / DATASET / f"{trainer}__{_PLANS}__{CONFIGURATION}"
    return write_model(folder, content, trainer) / "fold_0" / "checkpoint_final.pth"


def until_opened(
    command: Sequence[str], sequence: Sequence[Sequence[Path]], environment: Mapping[str, str]
) -> tuple[float, str]:
    """Run a command until it opens a file of each group, group after group, and end it.

    Returns:
        Seconds until then, and what the command and its children have written to stderr.

    Raises:
        MSTKDError: it ended before, or takes longer than ten minutes.
    """
    files = [file for group in sequence for file in group]
    with TemporaryFile("w+", errors="replace") as output, watching(files) as watch:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=output, start_new_session=True
        )
        try:
            end = _wait(process, watch, sequence)
        finally:
            _stop(process)
        output.seek(0)
        text = output.read()
    if end is None:
        last = text.strip().splitlines() or ["no message"]
        raise MSTKDError(f"{Path(command[0]).name} opened no image: {last[-1]}")
    return end - start, text


def _wait(process: subprocess.Popen[bytes], watch: Watch, sequence: Sequence[Sequence[Path]]) -> float | None:
    """When the last of the groups had its opening; None where the process ends before."""
    waiting, end = Waiting(sequence), time.perf_counter() + _TIMEOUT
    while time.perf_counter() < end:
        lives = process.poll() is None
        if waiting.done(watch.opened(_POLL)):
            return time.perf_counter()
        if not lives:
            return None
    return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the command with all its workers."""
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _timed(timings: Mapping[str, Timing]) -> dict[str, Any]:
    return {
        "seconds": {name: list(timing.seconds) for name, timing in timings.items()},
        "median": {name: timing.median for name, timing in timings.items()},
    }


def _table(results: Mapping[str, Any]) -> str:
    shown = results["help"]
    rows = [
        ("--help (beside it: python -c pass)", *_pair(shown["median"], "help", "python"), "-", "-"),
        *(
            (
                f"predict, {row['trainer']}",
                *_pair(row["median"], "ours", "nnunet"),
                f"{row['ratio']:.2f}",
                f"{row['modules']['ours']} / {row['modules']['nnunet']}",
            )
            for row in results["predict"]
        ),
    ]
    torch = "imports torch" if shown["imports_torch"] else "imports no torch"
    header = ("until printed, until an image is opened", "ours (s)", "nnU-Net (s)", "ratio", "modules")
    return f"{table(header, rows)}\n--help {torch}, {shown['modules']} modules"


def _pair(median: Mapping[str, float], first: str, second: str) -> tuple[str, str]:
    return f"{median[first]:.3f}", f"{median[second]:.3f}"


if __name__ == "__main__":
    sys.exit(main())
