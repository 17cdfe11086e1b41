"""Trainings that are killed, run out of disk or lose a worker: nothing is torn, little is lost."""

from __future__ import annotations

import re

import pytest
import torch

from nnunetv2_mstkd.models.checkpoint_files import safe_load

pytestmark = pytest.mark.slow
SAVE_EVERY, EPOCHS = 2, 6


def epochs_in(path) -> int:
    """Epochs that a checkpoint holds; reading it is the proof that it is whole."""
    content = safe_load(path)
    assert len(content["logging"]["train_losses"]) == content["current_epoch"]
    assert all(torch.isfinite(weight).all() for weight in content["network_weights"].values())
    return content["current_epoch"]


def assert_finished(training) -> None:
    assert epochs_in(training.fold / "checkpoint_final.pth") == EPOCHS
    assert training.hidden() == []


def test_killed_in_the_middle_of_an_epoch(training):
    training.kill_at("epoch:5")
    assert epochs_in(training.latest) == 4, "epoch 4 and half of epoch 5 are lost: less than two epochs"
    code, printed = training.run("--c")
    assert code == 0, printed[-3000:]
    assert re.findall(r"Epoch (\d+) *\n", printed) == ["4", "5"]
    assert_finished(training)


def test_killed_in_the_middle_of_a_checkpoint(training):
    training.kill_at("checkpoint:3")
    (half,) = training.hidden()
    assert half.name.endswith(".checkpoint_latest.pth")
    with pytest.raises(Exception, match="damaged"):
        safe_load(half)
    assert epochs_in(training.latest) == 2, "the last whole one: the interval that was being saved is lost"
    code, printed = training.run("--c")
    assert code == 0, printed[-3000:]
    assert re.findall(r"Epoch (\d+) *\n", printed) == ["2", "3", "4", "5"]
    assert_finished(training)


def test_a_disk_that_is_full_when_a_checkpoint_is_written(training):
    training.kill_at("epoch:2")
    before = training.latest.read_bytes()
    code, printed = training.run("--c", largest_file=len(before) // 2)
    assert code != 0
    reason = f"cannot write {training.latest}"
    assert printed.splitlines()[-1].startswith("nnunetv2_mstkd.errors.MSTKDError: " + reason)
    assert "is the disk full" in printed.splitlines()[-1]
    assert f"ERROR: {reason}" in training.log()
    assert training.latest.read_bytes() == before
    assert training.hidden() == []
    code, printed = training.run("--c")
    assert code == 0, printed[-3000:]
    assert_finished(training)


def test_a_data_loading_process_that_is_killed_ends_the_training(training):
    code, printed = training.run(nnUNet_n_proc_DA="2", MSTKD_TEST_FAULT="worker:2")
    assert code != 0
    assert "1 of 2 data loading processes was killed by signal 9" in printed
    assert epochs_in(training.latest) == 2, "noticed before the next batch"
