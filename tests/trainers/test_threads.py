"""OMP_NUM_THREADS counts on the CPU."""

from __future__ import annotations

import pytest
import torch

from nnunetv2_mstkd.methods.baselines import nnUNetTrainerFullModality, nnUNetTrainerModalityDropout


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("trainer_class", [nnUNetTrainerFullModality, nnUNetTrainerModalityDropout])
@pytest.mark.parametrize(("limit", "threads"), [("1", 1), ("2", 2), ("", 3), ("many", 3), ("0", 3)])
def test_a_training_on_the_cpu_keeps_to_it(make_trainer, monkeypatch, trainer_class, limit, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    torch.set_num_threads(3)
    make_trainer(trainer_class)
    assert torch.get_num_threads() == threads
