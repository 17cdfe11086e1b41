"""Seeding that lets a continued training repeat an uninterrupted one."""

from __future__ import annotations

import random
from zlib import crc32

import numpy as np
import torch


def seed_everything(seed: int, *context: int | str) -> None:
    """Seed Python, numpy and torch from ``seed`` and a context such as an epoch and a rank.

    Seeding anew for every epoch makes the state at an epoch's start independent of how the process got
    there, so nothing about random numbers has to be stored in checkpoints.
    """
    entropy = [seed, *(crc32(c.encode()) if isinstance(c, str) else c for c in context)]
    state = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))
