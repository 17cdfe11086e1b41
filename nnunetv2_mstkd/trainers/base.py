"""How many cores a training on the CPU takes."""

from __future__ import annotations

import os
import random
from zlib import crc32

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule


def keep_to_thread_limit(device: torch.device) -> None:
    """Let ``OMP_NUM_THREADS`` count on the CPU, where nnU-Net's command gives torch every core there is.

    Trainings side by side would else wait for each other's threads in every convolution.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if device.type == "cpu" and limit.isdecimal() and int(limit) > 0:
        torch.set_num_threads(int(limit))


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


def supervise_one_scale_plainly(trainer: nnUNetTrainer) -> None:
    """Switch deep supervision off for a network of two stages, whose decoder has a single output.

    nnU-Net leaves the lowest output out by a weight of 0 and divides by the sum of the weights: with one
    output that is 0 / 0, and the loss is nan.
    """
    if trainer.enable_deep_supervision and len(trainer._get_deep_supervision_scales()) < 2:
        trainer.enable_deep_supervision = False
        trainer.print_to_log_file("One decoder stage: training without deep supervision.")


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without DDP and torch.compile around it."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
