import threading
import weakref

import numpy as np
import pytest

from nnunetv2_mstkd.inference.pipeline import concurrently, staged


def same(value):
    return value


def failing(on):
    def stage(value):
        if value in on:
            raise ValueError(f"stage fails on {value}")
        return value

    return stage


def run(items, read=same, compute=same, write=same, readers=2, writers=2):
    return list(staged(items, read, compute, write, readers=readers, writers=writers))


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (3, 2), (0, 0)])
def test_every_item_passes_all_three_stages(readers, writers):
    outcomes = run(
        range(10), lambda n: n + 1, lambda n: n * 10, lambda n: n - 1, readers=readers, writers=writers
    )
    assert {o.item: o.result for o in outcomes} == {n: (n + 1) * 10 - 1 for n in range(10)}


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_failure_ends_its_item_only(stage):
    outcomes = run(range(6), **{stage: failing({1, 4})})
    assert {o.item for o in outcomes if o.error} == {1, 4}
    assert {o.item for o in outcomes if o.result == o.item} == {0, 2, 3, 5}
    assert all("stage fails" in str(o.error) for o in outcomes if o.item in (1, 4))


def test_a_failed_item_holds_nothing_while_the_next_is_computed():
    """Frames of a traceback would keep its tensors on the GPU."""
    held, seen = [], []

    def compute(value):
        seen.append([volume() is not None for volume in held])
        if value == 0:
            volume = np.zeros(1)
            held.append(weakref.ref(volume))
            try:
                raise MemoryError("out of memory")
            except MemoryError as error:
                raise ValueError("no room") from error
        return value

    results = [
        outcome.error and str(outcome.error)
        for outcome in staged([0, 1], same, compute, same, readers=1, writers=1)
    ]
    assert sorted(results, key=str) == [None, "no room"]
    assert seen == [[], [False]]


def test_compute_stays_in_the_calling_thread_and_in_order():
    seen = []

    def compute(value):
        seen.append((threading.current_thread(), value))
        return value

    run(range(8), compute=compute, readers=4)
    assert seen == [(threading.main_thread(), n) for n in range(8)]


def test_reading_and_writing_leave_the_calling_thread():
    threads = set()

    def note(value):
        threads.add(threading.current_thread())
        return value

    run(range(4), read=note, write=note)
    assert threading.main_thread() not in threads


def test_no_more_is_read_ahead_than_there_are_readers():
    lock, begun, ahead = threading.Lock(), [], []

    def read(value):
        with lock:
            begun.append(value)
        return value

    def compute(value):
        with lock:
            ahead.append(len(begun) - len(ahead) - 1)
        return value

    run(range(20), read=read, compute=compute, readers=2)
    assert max(ahead) <= 2


def test_what_waits_to_be_written_is_bounded():
    gate, computed, outcomes = threading.Event(), [], []

    def compute(value):
        computed.append(value)
        return value

    def write(value):
        gate.wait(10)
        return value

    def go():
        outcomes.extend(run(range(10), compute=compute, write=write, writers=2))

    thread = threading.Thread(target=go)
    thread.start()
    # It comes to rest with two items at the writers and one waiting.
    while len(computed) < 3:
        assert thread.is_alive()
    thread.join(0.2)
    assert len(computed) == 3
    gate.set()
    thread.join(10)
    assert len(outcomes) == 10


def test_an_early_stop_drops_what_was_not_begun():
    written = []
    outcomes = staged(range(100), same, same, lambda n: written.append(n), readers=1, writers=1)
    next(outcomes)
    outcomes.close()
    assert len(written) < 10


def test_an_interruption_is_not_taken_for_a_bad_item():
    def interrupted(value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(range(3), compute=interrupted)


def test_one_stage_alone():
    outcomes = list(concurrently(range(7), failing({3}), threads=3))
    assert {o.item: o.result for o in outcomes} == {n: None if n == 3 else n for n in range(7)}
