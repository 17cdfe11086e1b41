"""Data loading processes that are lost, with what they hold at their end."""

from __future__ import annotations

import os
import signal
from collections import deque
from multiprocessing import get_all_start_methods

import pytest
import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.data_loader import WatchedAugmenter

pytestmark = [
    pytest.mark.skipif("fork" not in get_all_start_methods(), reason="workers are forked"),
    pytest.mark.timeout(120),
    # The stock thread that hands batches over notices too, and ends with an error of its own.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
KILLED = (
    "1 of 2 data loading processes was killed by signal 9 (Killed); the system may be out of memory: "
    "continue with --c and fewer processes (nnUNet_n_proc_DA, now 2)"
)


class Loader:
    """Endless batches; the second worker meets an accident where its third one is wanted."""

    def __init__(self, accident=None):
        self.accident, self.wanted = accident, 0

    def set_thread_id(self, thread_id):
        self.thread_id = thread_id

    def __next__(self):
        self.wanted += 1
        if self.accident and self.thread_id == 1 and self.wanted == 3:
            self.accident(self.augmenter)
        return {"worker": self.thread_id, "data": torch.zeros(2, 3)}


@pytest.fixture
def make_augmenter():
    made = []

    def make(accident=None):
        loader = Loader(accident)
        augmenter = WatchedAugmenter(loader, None, num_processes=2, num_cached=3, wait_time=0.002)
        loader.augmenter = augmenter  # the copy of a forked worker has its queue and events
        made.append(augmenter)
        return augmenter

    yield make
    for augmenter in made:
        augmenter._finish()


def kill(augmenter):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_the_lock_of_the_event_that_all_ask(augmenter):
    augmenter.abort_event._cond.acquire()
    kill(augmenter)


def kill_in_the_middle_of_sending(augmenter):
    augmenter._queue._wlock.acquire()
    augmenter._queue._writer._send((100).to_bytes(4, "big") + b"half")
    kill(augmenter)


def kill_with_the_turn_to_send(augmenter):
    augmenter._queue._wlock.acquire()
    kill(augmenter)


def raise_an_error(augmenter):
    raise ValueError("a file is damaged")


def next_until_refused(augmenter) -> str:
    with pytest.raises(MSTKDError) as refusal:
        deque(augmenter, maxlen=0)  # there may be whole batches before
    return str(refusal.value)


def test_both_workers_deliver_and_can_be_stopped_and_started_again(make_augmenter):
    augmenter = make_augmenter()
    for _ in range(2):
        workers = {next(augmenter)["worker"]}
        while len(workers) < 2:
            workers.add(next(augmenter)["worker"])
        augmenter._finish()


@pytest.mark.parametrize(
    "accident",
    [
        kill,
        kill_in_the_lock_of_the_event_that_all_ask,
        kill_in_the_middle_of_sending,
        kill_with_the_turn_to_send,
    ],
)
def test_a_killed_worker_is_an_error_of_one_line(make_augmenter, accident):
    augmenter = make_augmenter(accident)
    next(augmenter)
    workers = tuple(augmenter._processes)
    assert next_until_refused(augmenter) == KILLED
    assert not any(worker.is_alive() for worker in workers), "none stays behind"


def test_an_error_in_a_worker_refers_to_what_it_printed(make_augmenter, capfd):
    assert next_until_refused(make_augmenter(raise_an_error)) == (
        "1 of 2 data loading processes ended (exit code 0): the cause is printed above; continue with --c"
    )
    assert "a file is damaged" in capfd.readouterr().out
