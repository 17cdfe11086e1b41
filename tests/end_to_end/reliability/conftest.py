"""Models and cases for prediction; trainings that meet accidents."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_dataset import DATASET, dataset_json, plans, write_dataset
from tiny_model import brats, files, models, predict  # noqa: F401  fixtures
from waiting import wait_until

FAULTY_TRAINERS = Path(__file__).parent / "faulty_trainers"


class FaultyTraining:
    """``nnUNetv2_train`` on the tiny data set, with accidents."""

    def __init__(self, root: Path, results: Path) -> None:
        self.marker = results / "stopped"
        self.fold = results / DATASET / "nnUNetTrainerFaulty__nnUNetPlans__tiny" / "fold_0"
        folders = {"raw": root / "raw", "preprocessed": root / "preprocessed", "results": results}
        self.environment = os.environ | {f"nnUNet_{name}": str(path) for name, path in folders.items()}
        self.environment |= {
            "nnUNet_extTrainer": str(FAULTY_TRAINERS),
            "nnUNet_n_proc_DA": "0",
            "OMP_NUM_THREADS": "1",
            "MSTKD_TEST_MARKER": str(self.marker),
        }

    @property
    def latest(self) -> Path:
        return self.fold / "checkpoint_latest.pth"

    def start(self, *flags: str, largest_file: int | None = None, **environment: str) -> subprocess.Popen:
        """Start a training.

        Args:
            largest_file: bytes at which the system stops a file's writing, as a full disk does.
        """

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        command = [Path(sysconfig.get_path("scripts")) / "nnUNetv2_train", DATASET, "tiny", "0"]
        return subprocess.Popen(
            [*command, "-tr", "nnUNetTrainerFaulty", "-device", "cpu", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment | environment,
            preexec_fn=limit,
        )

    def run(self, *flags: str, **options) -> tuple[int, str]:
        """Train to the end; exit code and what was printed."""
        process = self.start(*flags, **options)
        printed, _ = process.communicate(timeout=600)
        return process.returncode, printed

    def kill_at(self, fault: str) -> None:
        """Train until the fault is reached, then SIGKILL."""
        process = self.start(MSTKD_TEST_FAULT=fault)
        with process:
            wait_until(self.marker.exists, process)
            process.kill()

    def hidden(self) -> list[Path]:
        return sorted(path for path in self.fold.iterdir() if path.name.startswith("."))

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.fold.glob("training_log_*.txt")))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny networks of these tests gain nothing from threads, which wait for each other actively."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of half a MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True, text=True
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip() if mounted else 'no mount'}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def tiny_preprocessed(tmp_path_factory) -> Path:
    """nnU-Net's folders with the tiny data set, planned for six epochs with a checkpoint every second."""
    root = write_dataset(tmp_path_factory.mktemp("faulty"))
    length = {"num_epochs": 6, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
    base = root / "preprocessed" / DATASET
    (base / "nnUNetPlans.json").write_text(json.dumps(plans(settings=length | {"save_every": 2, "seed": 1})))
    (base / "dataset.json").write_text(json.dumps(dataset_json()))
    return root


@pytest.fixture
def training(tiny_preprocessed, tmp_path) -> FaultyTraining:
    return FaultyTraining(tiny_preprocessed, tmp_path)
