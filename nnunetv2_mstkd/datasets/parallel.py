"""One function over many cases, in this process or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from nnunetv2_mstkd.errors import MSTKDError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Item], Result], items: Sequence[Item], *, num_processes: int, title: str
) -> list[Result]:
    """Results of ``function`` in the order of ``items``, with a progress bar on a terminal.

    Args:
        function: a module-level function (it is sent to other processes).
        num_processes: 1 stays in this process.

    Raises:
        MSTKDError: one of the processes was killed.
    """
    bar = tqdm(total=len(items), desc=title, unit="case", disable=None)
    results = []
    with bar:
        if min(num_processes, len(items)) <= 1:
            for item in items:
                results.append(function(item))
                bar.update()
            return results
        # spawn, as nnU-Net does: a fork of a process that has started threads can hang.
        workers = min(num_processes, len(items))
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for result in pool.map(function, items):
                    results.append(result)
                    bar.update()
        except BrokenProcessPool:
            raise MSTKDError(
                f"{title}: one of {workers} worker processes was killed, perhaps for want of memory;"
                " use fewer (--num-processes 1, or nnUNet_def_n_proc=1 in the environment)"
            ) from None
    return results
