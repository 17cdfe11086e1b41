"""The steps of the study, each through the real commands, each skipped where its result is there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from benchmarks.phantom_study.arms import ABLATIONS, ARMS, BAR, METHOD, Arm, Size, epochs_of

DATASET = "Dataset900_Phantom"
CONFIGURATION = "3d_fullres"
BASE_PLANS = "nnUNetMSTKDPlans"


@dataclass(frozen=True)
class Run:
    """One training and its evaluation."""

    arm: Arm
    seed: int

    @property
    def plans(self) -> str:
        """Name of its plans file: settings live in the plans."""
        return f"Study_{self.arm.key}_seed{self.seed}"


class Study:
    """Everything in one folder."""

    def __init__(self, out: Path, size: Size, device: str, jobs: int) -> None:
        self.out, self.size, self.device, self.jobs = out.resolve(), size, device, jobs
        folders = {n: self.out / f"nnUNet_{n}" for n in ("raw", "preprocessed", "results")}
        for folder in (*folders.values(), self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.raw, self.preprocessed, self.results = folders.values()
        self.environment = os.environ | {f"nnUNet_{n}": str(f) for n, f in folders.items()}
        # nnU-Net's planner needs one process; training without any is repeatable and fastest at this size.
        self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}
        if device == "cpu":
            threads = max(1, (os.cpu_count() or 1) // jobs)
            self.environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def run(self, log: str, command: str, **environment: str) -> None:
        """Run one installed command; its output goes to a log.

        Raises:
            RuntimeError: it failed.
        """
        program, *arguments = shlex.split(command)
        path = self.out / "logs" / f"{log}.log"
        with path.open("a") as stream:
            stream.write(f"\n$ {command}\n")
            stream.flush()
            done = subprocess.run(
                [str(Path(sysconfig.get_path("scripts")) / program), *arguments],
                env=self.environment | environment,
                stdout=stream,
                stderr=stream,
                check=False,
            )
        if done.returncode:
            raise RuntimeError(f"failed, see {path}: {command}")

    # ------------------------------------------------------------ data and plans

    def make_data(self) -> None:
        """Phantom, raw data set, preprocessing, plans."""
        for part, cases, seed in (("train", self.size.train, 1), ("test", self.size.test, 2)):
            folder = self.out / "phantom" / part
            if not folder.exists():
                self.run("data", f"nnUNetv2_mstkd phantom -o {shlex.quote(str(folder))} --cases {cases} "
                         f"--shape {self.size.shape} --seed {seed}")  # fmt: skip
        source = shlex.quote(str(self.out / "phantom" / "train"))
        if not (self.raw / DATASET).exists():
            self.run("data", f"nnUNetv2_mstkd convert -i {source} -d 900 --name Phantom --format brats2023")
        if not self._plans(BASE_PLANS).exists():
            preprocess = f"nnUNetv2_plan_and_preprocess -d 900 -c {CONFIGURATION} -npfp 2 -np 2"
            self.run("data", preprocess)
            self.run("data", f"nnUNetv2_mstkd plan -d 900 -c {CONFIGURATION} {self.size.plan}")

    def _plans(self, name: str) -> Path:
        return self.preprocessed / DATASET / f"{name}.json"

    def write_plans(self, run: Run) -> None:
        """The base plans with the run's length and seed: nothing else differs between runs."""
        full, masked = epochs_of(run.arm, self.size.epochs)
        plans = deepcopy(json.loads(self._plans(BASE_PLANS).read_text()))
        plans["plans_name"] = run.plans
        plans["configurations"][CONFIGURATION]["mstkd"] = {
            **plans["configurations"][CONFIGURATION].get("mstkd", {}),
            "num_epochs": full + masked,
            "full_phase": full / (full + masked),
            "num_iterations_per_epoch": self.size.steps,
            "num_val_iterations_per_epoch": 2,
            "save_every": 10,
            "optimizer": "adamw",
            "initial_lr": self.size.learning_rate,
            "seed": run.seed,
            **dict(run.arm.sampler),
        }
        self._plans(run.plans).write_text(json.dumps(plans, indent=2))

    # ------------------------------------------------------------ runs

    def model(self, run: Run) -> Path:
        """Where nnU-Net puts the run's model."""
        return self.results / DATASET / f"{run.arm.trainer}__{run.plans}__{CONFIGURATION}"

    def evaluation(self, run: Run) -> Path:
        """Where the run's evaluation goes."""
        return self.out / "evaluations" / run.arm.key / f"seed_{run.seed}"

    def train_and_evaluate(self, run: Run) -> None:
        """One training, continued where it was stopped, and its evaluation."""
        fold = self.model(run) / "fold_0"
        if not (fold / "validation" / "summary.json").exists():
            self.write_plans(run)
            go_on = " --c" if (fold / "checkpoint_latest.pth").exists() else ""
            command = f"nnUNetv2_mstkd train 900 {CONFIGURATION} 0 -tr {run.arm.trainer} -p {run.plans}"
            self.run(run.plans, f"{command} -device {self.device}{go_on}", nnUNet_n_proc_DA="0")
        command = f"nnUNetv2_mstkd evaluate -m {shlex.quote(str(self.model(run)))} -f 0"
        command += f" --cases {shlex.quote(str(self.out / 'phantom' / 'test'))} --disable_tta"
        out = shlex.quote(str(self.evaluation(run)))
        self.run(run.plans, f"{command} -device {self.device} -o {out} -npp 1 -nps 1 --disable_progress_bar")

    def train_all(self, runs: Iterable[Run]) -> list[Run]:
        """Every run, ``jobs`` at a time; returns those that were done."""
        done = []

        def one(run: Run) -> Run:
            self.train_and_evaluate(run)
            print(f"done: {run.arm.title}, seed {run.seed}", flush=True)
            return run

        with ThreadPoolExecutor(self.jobs) as pool:
            for run in pool.map(one, runs):
                done.append(run)
        return done

    # ------------------------------------------------------------ results

    def compare(self, runs: Iterable[Run]) -> None:
        """Two comparisons: every arm against the bar, and the ablations against the method."""
        by_arm: dict[str, list[Path]] = {}
        for run in runs:
            by_arm.setdefault(run.arm.key, []).append(self.evaluation(run))
        main = {key: by_arm[key] for key in ARMS if key in by_arm and key not in ABLATIONS}
        if BAR in main:
            self._compare("comparison", main, BAR)
        first = {key: by_arm[key][:1] for key in (METHOD, *ABLATIONS, "plain_student") if key in by_arm}
        if METHOD in first and len(first) > 1:
            self._compare("ablation", first, METHOD, " --ablation")

    def _compare(self, name: str, evaluations: dict[str, list[Path]], reference: str, more: str = "") -> None:
        runs = " ".join(shlex.quote(",".join(map(str, folders))) for folders in evaluations.values())
        names = " ".join(shlex.quote(ARMS[key].title) for key in evaluations)
        target = self.out / name
        shutil.rmtree(target, ignore_errors=True)
        command = f"nnUNetv2_mstkd compare {runs} -o {shlex.quote(str(target))} --names {names}"
        self.run(name, f"{command} --reference {shlex.quote(ARMS[reference].title)}{more}")
