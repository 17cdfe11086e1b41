"""How many cores a training on the CPU takes."""

from __future__ import annotations

import os

import torch


def keep_to_thread_limit(device: torch.device) -> None:
    """Let ``OMP_NUM_THREADS`` count on the CPU, where nnU-Net's command gives torch every core there is.

    Trainings side by side would else wait for each other's threads in every convolution.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if device.type == "cpu" and limit.isdecimal() and int(limit) > 0:
        torch.set_num_threads(int(limit))
