"""The steps of the study, each through the real commands, each skipped where its result is there."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.study.arms import Arm, epochs_of
from benchmarks.study.cost import step_cost
from benchmarks.study.data import StudyData
from benchmarks.study.few import LABELLED, FewLabelled
from benchmarks.study.parts import ALL_ARMS, Comparison, Part
from benchmarks.study.resume import FINISHED, how_to_go_on
from benchmarks.study.runs import Run
from benchmarks.study.unlabelled import teacher_of
from benchmarks.study.workplace import BASE_PLANS, PLANS_OF, Workplace
from nnunetv2_mstkd import methods
from nnunetv2_mstkd.files import locked_folder, read_json, write_json


class Study:
    """Runs and comparisons in one folder.

    Args:
        work: the folder.
        data: that the folder is made for.
        labelled: patients of a fold who are labelled, where few are.
    """

    def __init__(self, work: Workplace, data: StudyData, labelled: int = LABELLED) -> None:
        self.work, self.data, self.training = work, data, work.training
        self.few = FewLabelled(work, data, labelled)
        self._counted: dict[tuple[str, str, str], float] = {}

    # ------------------------------------------------------------ runs

    def write_plans(self, run: Run) -> None:
        """The plans of the arm's network with the run's settings: nothing else differs between runs."""
        dataset = self.few.dataset(run)
        plans = deepcopy(read_json(self.work.plans(PLANS_OF[run.arm.network][0], dataset)))
        plans["plans_name"] = run.plans
        configuration = plans["configurations"][self.data.configuration]
        configuration["mstkd"] = {**configuration.get("mstkd", {}), **self.settings(run)}
        write_json(plans, self.work.plans(run.plans, dataset))

    def settings(self, run: Run) -> dict[str, Any]:
        """What goes into the ``"mstkd"`` dict of the run's plans."""
        budget, steps = run.condition.budget(self.training)
        full, masked = epochs_of(run.arm, budget, self.step_cost(run.arm))
        optimizer = {"optimizer": "adamw", "initial_lr": self.training.learning_rate}
        return {
            "num_epochs": full + masked,
            **({"full_phase": full / (full + masked)} if self._has_phases(run.arm) else {}),
            "num_iterations_per_epoch": steps,
            "num_val_iterations_per_epoch": 2,
            "save_every": 10,
            **({} if run.arm.own_optimizer else optimizer),
            "seed": run.seed,
            **dict(run.arm.settings),
        }

    @staticmethod
    def _has_phases(arm: Arm) -> bool:
        return "full_phase" in getattr(methods, arm.trainer).settings_read()

    def step_cost(self, arm: Arm) -> float | None:
        """What a step of another network than MSTKDNet costs, in student steps; other arms say it."""
        if arm.step_cost is not None:
            return None
        # Arms that differ in nothing else, as in the optimizer, cost the same.
        counted = arm.trainer, arm.network, repr(arm.settings)
        if counted not in self._counted:
            plans = read_json(self.work.plans(PLANS_OF[arm.network][0]))
            dataset = read_json(self.work.raw / self.data.dataset / "dataset.json")
            configuration, settings = self.data.configuration, dict(arm.settings)
            self._counted[counted] = step_cost(
                arm.trainer,
                plans,
                configuration,
                dataset,
                settings,
                unit=read_json(self.work.plans(BASE_PLANS)),
            )
        return self._counted[counted]

    def model(self, run: Run) -> Path:
        """Where nnU-Net puts the run's model."""
        name = f"{run.arm.trainer}__{run.plans}__{self.data.configuration}"
        return self.work.results / self.few.dataset(run) / name

    def evaluation(self, run: Run) -> Path:
        """Where the run's evaluation goes."""
        name = "_".join(["evaluations", *filter(None, [run.condition.name])])
        return self.work.out / name / run.arm.key / f"seed_{run.seed}"

    def is_finished(self, run: Run) -> bool:
        """Whether the run is trained, and evaluated to the last row."""
        fold = self.model(run) / f"fold_{run.fold}"
        return how_to_go_on(fold) is FINISHED and _is_whole(self.evaluation(run))

    def train_and_evaluate(self, run: Run) -> None:
        """One training, continued where it was stopped, and its evaluation."""
        fold, device = run.fold, self.work.device
        flag = how_to_go_on(self.model(run) / f"fold_{fold}")
        if flag is not FINISHED:
            self.write_plans(run)
            which = f"{self.few.dataset(run)} {self.data.configuration} {fold}"
            command = f"nnUNetv2_mstkd train {which} -tr {run.arm.trainer}"
            shares = f" --gradient_shares {run.arm.log_shares}" if run.arm.log_shares else ""
            processes = self.training.loader_processes
            loader = {} if processes is None else {"nnUNet_n_proc_DA": str(processes)}
            self.work.run(run.plans, f"{command} -p {run.plans} -device {device}{shares} {flag}", **loader)
        command = f"nnUNetv2_mstkd evaluate -m {shlex.quote(str(self.model(run)))} -f {fold}"
        cases = self.data.held_out(self.work, fold)
        command += f" --cases {shlex.quote(str(cases))} --disable_tta"
        command += f" -device {device} -o {shlex.quote(str(self.evaluation(run)))}"
        self.work.run(run.plans, f"{command} -npp 1 -nps 1 --disable_progress_bar")

    def train_all(self, runs: Iterable[Run]) -> None:
        """Every run that is not finished, so many at a time as there are jobs."""
        runs = list(runs)
        teachers = [teacher for run in runs if (teacher := teacher_of(run)) is not None]
        one_at_a_time = {run.plans: Lock() for run in (*runs, *teachers)}

        def finish(run: Run) -> None:
            with one_at_a_time[run.plans]:
                if self.is_finished(run):
                    return
                teacher = teacher_of(run)
                if teacher is not None:
                    finish(teacher)  # or wait for whoever trains it
                    self.few.make_pseudo(run, self.model(teacher))
                self.train_and_evaluate(run)

        def one(run: Run) -> None:
            finish(run)
            print(f"done: {run.plans} ({run.arm.title})", flush=True)

        with ThreadPoolExecutor(self.work.jobs) as pool:
            list(pool.map(one, runs))

    # ------------------------------------------------------------ results

    def compare(self, part: Part, seeds: int) -> None:
        """The comparisons of a part over all finished runs, those of earlier calls too.

        A round through the patients of which a fold is missing is left out, and that is said.
        """
        rounds: dict[tuple[str, int], list[Run]] = {}
        for run in part.runs(self.work.size_name, seeds, ALL_ARMS, self.data.folds):
            rounds.setdefault((run.arm.key, run.repeat), []).append(run)
        evaluations: dict[str, list[list[Path]]] = {}
        for (key, repeat), runs in rounds.items():
            finished = [run for run in runs if self.is_finished(run)]
            if len(finished) == len(runs):
                evaluations.setdefault(key, []).append([self.evaluation(run) for run in runs])
            elif finished:
                title, missing = ALL_ARMS[key].title, len(runs) - len(finished)
                print(f"left out: round {repeat + 1} of {title}; {missing} of {len(runs)} folds are missing")
        for comparison in part.comparisons:
            self._compare(comparison, evaluations)

    def _compare(self, comparison: Comparison, evaluations: dict[str, list[list[Path]]]) -> None:
        """One comparison, where there is something to set against its reference.

        Args:
            comparison: of which arms.
            evaluations: arm → folders of each round.
        """
        chosen = {key: evaluations[key] for key in comparison.arms if key in evaluations}
        if comparison.ablation:
            chosen = {key: rounds[:1] for key, rounds in chosen.items()}
        reference = ALL_ARMS[comparison.reference].title
        if comparison.reference not in chosen:
            if chosen:
                print(f"not compared: {comparison.folder}; its reference, {reference}, has no finished run")
            return
        if len(chosen) < 2:
            return
        runs = " ".join(shlex.quote(",".join(map(str, chain(*rounds)))) for rounds in chosen.values())
        names = " ".join(shlex.quote(ALL_ARMS[key].title) for key in chosen)
        target = shlex.quote(str(self.work.out / comparison.folder))
        command = f"nnUNetv2_mstkd compare {runs} -o {target} --names {names}"
        command += f" --reference {shlex.quote(reference)}"
        self.work.run(comparison.folder, command + (" --ablation" if comparison.ablation else ""))


def _is_whole(evaluation: Path) -> bool:
    """Whether the evaluation has a row for every case, subset and region of its record."""
    table, record = evaluation / "metrics.csv", evaluation / "evaluation.json"
    if not (table.is_file() and record.is_file()):
        return False
    content = read_json(record)
    expected = len(content["cases"]) * len(content["subsets"]) * len(content["regions"])
    with table.open(encoding="utf-8", newline="") as stream:
        return sum(1 for _ in csv.DictReader(stream)) == expected


def run_parts(study: Study, parts: Sequence[Part], runs: Sequence[Run], seeds: int) -> None:
    """Data, the runs that are missing, and the comparisons of the parts; one command at a time per folder."""
    with locked_folder(study.work.out):
        study.data.make(study.work, runs)
        study.few.make(runs)
        study.train_all(runs)
        for part in parts:
            study.compare(part, seeds)
