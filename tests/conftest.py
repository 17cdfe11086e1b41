"""Running the installed commands on real files, in processes of their own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


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
