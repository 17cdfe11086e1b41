"""``--c`` at any epoch: the weights of an uninterrupted training, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from feature_commands import model_folder, train
from loop import losses
from loop import train as run_loop

from nnunetv2_mstkd import methods

pytestmark = pytest.mark.slow
STOPPER = Path(__file__).with_name("stop_after.py")
PHASES = {1: "in the full-modality phase", 2: "at the change of the phases", 3: "in the masking phase"}


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=False)["network_weights"]


def assert_bit_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nnUNetTrainerMSTKD", {"gradient_shares_every": 1}),
        ("nnUNetTrainerMSTKDJoint", {}),
        ("nnUNetTrainerModalityDropout", {"full_phase": 0.5}),
        ("nnUNetTrainerFullModality", {}),
    ],
)
def test_stopped_at_every_epoch_and_continued(make_trainer, name, settings):
    settings = settings | {"save_every": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    options = {"settings": settings}
    whole = run_loop(make_trainer(getattr(methods, name), results="whole", **options))
    for epochs in PHASES:
        results = f"stopped_{epochs}"
        run_loop(make_trainer(getattr(methods, name), results=results, **options), epochs)
        again = make_trainer(getattr(methods, name), results=results, **options)
        again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
        assert again.current_epoch == epochs
        run_loop(again)
        assert losses(again) == losses(whole), PHASES[epochs]
        assert_bit_equal(again.network.state_dict(), whole.network.state_dict())


def test_the_command_killed_at_the_phase_change(models):
    """Fold 0 of 3d_fullres once more, in another results folder: killed after its first of two epochs."""
    again = models.root / "results_again"
    environment = models.environment | {"nnUNet_results": str(again)}
    command = train("3d_fullres", 0).split()[2:]
    killed = subprocess.run(
        [sys.executable, STOPPER, "1", *command], env=environment, cwd=models.root, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr[-2000:]
    fold = again / model_folder(models, "3d_fullres").relative_to(models.results) / "fold_0"
    assert (fold / "checkpoint_latest.pth").is_file()
    assert not (fold / "checkpoint_final.pth").exists()
    models.run(train("3d_fullres", 0, "--c"), nnUNet_results=str(again))
    final = model_folder(models, "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    assert_bit_equal(weights_of(fold / "checkpoint_final.pth"), weights_of(final))
