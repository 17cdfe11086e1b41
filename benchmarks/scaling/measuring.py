"""Time and peak memory of a training step, each configuration in a process of its own.

Linux and macOS: the peak is the process's ``ru_maxrss``, less what it was before the network was built. The
processes are forked from a server that has imported everything and computed nothing.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from benchmarks.peak_memory import peak
from benchmarks.scaling.networks import CLASSES, Configuration


def in_fresh_process(configuration: Configuration, device: str, repeats: int) -> dict[str, Any]:
    """:func:`measure` in a new process; ``{"error": ...}`` where the memory is too small."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.scaling.measuring"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure, configuration, device, repeats).result()
        except (BrokenProcessPool, RuntimeError, MemoryError) as error:  # killed, or refused by an allocator
            return {"error": str(error).splitlines()[0]}


def measure(configuration: Configuration, device: str, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat, their median, and the peak in bytes (weights and gradients included).

    A step is the forward pass with deep supervision, in training mode, and the backward pass of a plain sum;
    mixed precision on CUDA, as nnU-Net trains. One step before the clock starts.
    """
    torch.manual_seed(0)
    before = peak(device)
    network = _build(configuration).to(device).train()
    x = torch.randn(1, configuration.modalities, *configuration.patch, device=device)
    seconds = [_timed(network, x, device) for _ in range(repeats + 1)][1:]
    return {
        "seconds": seconds,
        "median": statistics.median(seconds),
        "peak_bytes": peak(device) - before,
    }


def _build(configuration: Configuration) -> nn.Module:
    architecture = configuration.architecture
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        configuration.modalities,
        CLASSES,
        deep_supervision=True,
    )


def _timed(network: nn.Module, x: Tensor, device: str) -> float:
    network.zero_grad(set_to_none=True)
    _wait(device)
    start = time.perf_counter()
    with torch.autocast("cuda") if device == "cuda" else nullcontext():
        loss = sum(level.float().square().mean() for level in network(x))
    loss.backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
