"""A disk that fills up at each of the writes of a checkpoint, for both kinds of trainers here."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerFullModality, nnUNetTrainerModalityDropout
from nnunetv2_mstkd.models.checkpoint_files import safe_load
from nnunetv2_mstkd.trainers.checkpoints import EXTRA_KEY

# nnU-Net's own write, and ours with what nnU-Net does not know of.
WRITES = [
    (nnUNetTrainerFullModality, 1),
    (nnUNetTrainerModalityDropout, 1),
    (nnUNetTrainerModalityDropout, 2),
]


@pytest.mark.parametrize(("trainer_class", "number"), WRITES)
def test_a_disk_that_is_full_at_this_write(make_trainer, monkeypatch, trainer_class, number):
    trainer = make_trainer(trainer_class)
    trainer.initialize()
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(latest))
    before, save, writes = latest.read_bytes(), torch.save, []

    def filling_up(content, target):
        writes.append(target)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if len(writes) == number:  # as a full disk, the system stops this file halfway
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        try:
            save(content, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", filling_up)
        with pytest.raises(MSTKDError) as error:
            trainer.save_checkpoint(str(latest))
    assert len(writes) == number
    assert str(error.value).startswith(f"cannot write {latest}")
    assert "is the disk full" in str(error.value)
    assert f"ERROR: cannot write {latest}" in Path(trainer.log_file).read_text()
    assert latest.read_bytes() == before
    assert not [path for path in latest.parent.iterdir() if path.name.startswith(".")]
    trainer.save_checkpoint(str(latest))
    assert (EXTRA_KEY in safe_load(latest)) == (trainer_class is nnUNetTrainerModalityDropout)
