"""What every benchmark needs: fair timing, a description of the machine, a table, a JSON file."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nnunetv2_mstkd.environment import use_large_pages
from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.files import write_json

use_large_pages()  # as the commands do; here for whatever a benchmark compares with, too


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat, and what the function returned at the last."""

    seconds: tuple[float, ...]
    result: Any

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def compare(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int, warmups: int = 1, device: str = "cpu"
) -> dict[str, Timing]:
    """Time functions in turns, so that whatever else the machine does meets all of them alike.

    Args:
        functions: name → what to time.
        repeats: timed rounds, at least one.
        warmups: rounds before them that are not timed.
        device: ``"cuda"``: wait for the device before the clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    results: dict[str, Any] = {}
    for turn in range(warmups + repeats):
        for name, function in functions.items():
            _wait(device)
            start = time.perf_counter()
            results[name] = function()
            _wait(device)
            if turn >= warmups:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds[name]), results[name]) for name in functions}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def parser(
    module: str, description: str, *, devices: Sequence[str] = ("cpu", "cuda"), repeats: int = 5
) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take: ``--device``, ``--json``, ``--repeats``."""
    result = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    result.add_argument("--device", choices=devices, default="cpu")
    result.add_argument("--json", type=Path, metavar="OUT", help="write the results here too")
    result.add_argument(
        "--repeats", type=_positive, default=repeats, metavar="N", help=f"timed rounds (default {repeats})"
    )
    return result


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def report(name: str, device: str, results: Any, *, packages: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a benchmark's JSON: its results with what they were measured on and with.

    Args:
        packages: whose versions matter beside those of every run.
    """
    return {
        "benchmark": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": machine(device),
        "versions": {**versions(), **{package: metadata.version(package) for package in packages}},
        "git": git_commit(),
        "results": results,
    }


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory and device; nothing that identifies the computer or its user."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "device": device,
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first one to the left."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def publish(content: Mapping[str, Any], text: str, output: Path | None) -> None:
    """Print a benchmark's table with its machine, and write its JSON where one is asked for."""
    facts = content["machine"]
    print(text)
    print(f"\n{facts['processor']}, {facts['cores']} cores, {facts['device']}, Python {facts['python']}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(content, output)
        print(f"written: {output}")
