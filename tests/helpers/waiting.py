"""Waiting for something that another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 240) -> None:
    """Wait until the condition holds; the process must not end before."""
    for _ in range(int(20 * seconds)):
        if condition():
            return
        if process.poll() is not None:
            printed = process.stdout.read()[-3000:] if process.stdout else ""
            raise AssertionError(f"the process ended too early: {printed}")
        time.sleep(0.05)
    raise AssertionError("it did not happen")
