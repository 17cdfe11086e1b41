"""What tests of several rooms use: commands in processes of their own, trainers on a tiny data set."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

import pytest
from places import SHARED, TESTS
from tiny_dataset import PATCH, dataset_json, plans, write_dataset

ONE_CORE = TESTS / "one_core"
# Their files share models that take minutes to train: one worker takes the whole room.
WHOLE_ROOMS = ("end_to_end/features", "end_to_end/other_datasets")


def pytest_configure() -> None:
    """Side by side, workers would wait for each other's threads in every convolution; torch comes later."""
    # Hundreds of commands start: each would compile this package anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together for one worker what shares fixtures, and begin with what takes longest."""
    groups = {item: _group(item.path) for item in items}
    slow = {group for item, group in groups.items() if item.get_closest_marker("slow")}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] not in slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Say so if a release of pytest or xdist loses the groups: every fixture is then made in each worker."""
    if session.config.getoption("loadgroup", False) and any("@" not in i.nodeid for i in session.items):
        warnings.warn("pytest-xdist did not take over the groups of tests/conftest.py", stacklevel=1)


def _group(path: Path) -> str:
    within = path.relative_to(TESTS).as_posix()
    return next((room for room in WHOLE_ROOMS if within.startswith(f"{room}/")), within)


class Workplace:
    """nnU-Net folders below one root, and the commands with them in the environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = {f"nnUNet_{n}": root / n for n in ("raw", "preprocessed", "results")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        self.raw, self.preprocessed, self.results = folders.values()
        self.environment = os.environ | {k: str(v) for k, v in folders.items()}
        self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_extTrainer": ""}
        paths = [str(ONE_CORE), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)

    def run(
        self, command: str, *, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the installed commands (split as a shell would)."""
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [Path(sysconfig.get_path("scripts")) / program, *arguments],
            capture_output=True,
            text=True,
            env=self.environment | environment,
            cwd=self.root,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def run_together(self, *commands: str) -> list[subprocess.CompletedProcess[str]]:
        """Run commands that do not need each other, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.run, commands))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it running."""
        program, *arguments = shlex.split(command)
        return subprocess.Popen(
            [Path(sysconfig.get_path("scripts")) / program, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.root,
        )


@pytest.fixture(scope="session")
def new_workplace(tmp_path_factory) -> Callable[[str], Workplace]:
    return lambda name: Workplace(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real cases that are not in the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real cases (../shared/data) are not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def nnunet_folders(tmp_path_factory) -> Path:
    """Folder with ``raw``, ``preprocessed`` and ``results``; the preprocessed data set is complete."""
    return write_dataset(tmp_path_factory.mktemp("nnunet"))


@pytest.fixture
def make_trainer(nnunet_folders, tmp_path, monkeypatch):
    """Builds a trainer of a class on the tiny data set, results in this test's own folder."""
    import torch

    monkeypatch.setenv("nnUNet_raw", str(nnunet_folders / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(nnunet_folders / "preprocessed"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)

    def make(
        trainer_class, *, results="results", regions=True, settings=None, patch=PATCH, extra=None, change=None
    ):
        monkeypatch.setenv("nnUNet_results", str(tmp_path / results))
        length = {
            "num_epochs": 4,
            "num_iterations_per_epoch": 2,
            "num_val_iterations_per_epoch": 2,
            "seed": 7,
        }
        content = plans(settings=length | (settings or {}), patch=patch)
        if change is not None:
            change(content)
        dataset = dataset_json(regions=regions) | (extra or {})
        trainer = trainer_class(
            deepcopy(content) | {"continue_training": False}, "tiny", 0, dataset, torch.device("cpu")
        )
        # nnU-Net's progress.png takes a second an epoch and is not ours to test.
        monkeypatch.setattr(trainer.logger, "plot_progress_png", lambda folder: None)
        return trainer

    return make
