"""Data loading processes whose sudden end ends the training instead of hanging it."""

from __future__ import annotations

import signal
from multiprocessing import Process
from queue import Empty
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

from nnunetv2_mstkd.errors import MSTKDError


class WatchedAugmenter(NonDetMultiThreadedAugmenter):
    """nnU-Net's augmenter, which notices a lost worker whatever that worker held at its end.

    The stock one learns of a dead worker through an event that all its processes share. A worker that is
    killed (the system is out of memory) while it holds the event's lock, or with half a batch in the pipe,
    leaves the training waiting for ever. Here the waiting side asks only for the processes themselves.
    """

    _processes: list[Process]

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            MSTKDError: a data loading process has ended; the others are stopped.
        """
        if not self.initialized:
            self._start()
        while True:
            codes = [worker.exitcode for worker in self._processes]
            ended = [code for code in codes if code is not None]
            if ended:
                reason = _reason(min(ended), len(codes))  # a killed one (below 0) before those it took along
                self._abandon()
                raise MSTKDError(reason)
            try:
                batch = self.results_loop_queue.get(timeout=self.wait_time)
            except Empty:
                continue
            self.results_loop_queue.task_done()
            return batch

    def _abandon(self) -> None:
        """End the workers without the events and queues they share: a dead one may hold their locks."""
        for worker in self._processes:
            worker.kill()
            worker.join()
        self._processes = []
        self.initialized = False  # with this, the stock clean-up has nothing left to wait for


def _reason(code: int, number: int) -> str:
    if code < 0:
        how = f"was killed by signal {-code} ({signal.strsignal(-code)}); the system may be out of memory"
        remedy = f"continue with --c and fewer processes (nnUNet_n_proc_DA, now {number})"
    else:
        how, remedy = f"ended (exit code {code})", "the cause is printed above; continue with --c"
    return f"1 of {number} data loading processes {how}: {remedy}"
