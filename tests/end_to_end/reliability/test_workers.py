"""The converter's processes: one that is killed ends the command, it does not hang it."""

from __future__ import annotations

import os
import signal

import pytest

from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.errors import MSTKDError


def kill_itself(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.mark.timeout(120)
def test_a_killed_process_is_a_one_line_error():
    with pytest.raises(MSTKDError, match=r"writing: one of 2 worker processes was killed.*--num-processes 1"):
        run_all(kill_itself, [0, 1, 2], num_processes=2, title="writing")
