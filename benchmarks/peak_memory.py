"""Peak memory of what a benchmark does, in a process of its own: another's peak would hide it."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def peak_of(work: Callable[[], Any], device: str) -> int:
    """Bytes that ``work`` takes beyond what the process did before; on CUDA, what torch allocated."""
    before = peak(device)
    work()
    return peak(device) - before


def peak(device: str) -> int:
    """Bytes that this process has held at most; on CUDA, of what torch allocated."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def printed_by(module: str, arguments: Sequence[str]) -> str:
    """The word that ``python -m benchmarks.MODULE`` prints last."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return done.stdout.split()[-1]
