"""A few labelled patients of a fold: who they are, and the data sets that are made of them and the others."""

from __future__ import annotations

import random
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.study.arms import ALL, FEW, PSEUDO
from benchmarks.study.data import StudyData, convert, link_case
from benchmarks.study.runs import Run
from benchmarks.study.workplace import BASE_PLANS, Workplace
from nnunetv2_mstkd.datasets.cases import Case
from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_cases
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, sweep_leftovers, write_json
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

LABELLED = 6
# Two data sets for a seed, in ids that the phantom and the patients do not have.
_FIRST_ID = {FEW: 100, PSEUDO: 101}


@dataclass(frozen=True)
class Draw:
    """Cases of one fold, by what is known of them.

    Attributes:
        labelled: train with their segmentations.
        others: train without.
        validated: by nnU-Net, for its logs; as with every other arm.
    """

    labelled: tuple[str, ...]
    others: tuple[str, ...]
    validated: tuple[str, ...]


class FewLabelled:
    """The data sets of a study with few labelled patients: two for every seed.

    In ``FEW`` the other patients have no segmentation: the bar leaves them out, distillation takes the
    complete ones. In ``PSEUDO`` these have a model's. Plans are those of all patients, so the networks are.
    """

    def __init__(self, work: Workplace, data: StudyData, labelled: int) -> None:
        self.work, self.data, self.labelled = work, data, labelled

    def dataset(self, run: Run) -> str:
        """Name of the data set that a run trains on."""
        cases = run.arm.cases
        return self.data.dataset if cases == ALL else _dataset(cases, run.seed)

    def make(self, runs: Iterable[Run]) -> None:
        """Make what the runs read, but for the pseudo-labels: their model is not trained yet.

        Raises:
            MSTKDError: a fold has too few patients, or the folder is of another number of labelled ones.
        """
        draws = {run.seed: self.drawn(run) for run in runs if run.arm.cases != ALL}
        if not draws:
            return
        self.work.claim_labelled(self.labelled)
        self._folder(0).parent.mkdir(exist_ok=True)
        sweep_leftovers(self._folder(0).parent)
        for seed, draw in draws.items():
            source = self._folder(seed)
            self._link(draw, source)
            flags = f"--unlabelled {shlex.quote(str(source / 'unlabelled'))}"
            self._finish(_dataset(FEW, seed), source / "labelled", draw, flags=flags, log="data")

    def make_pseudo(self, run: Run, model: Path) -> None:
        """Make the data set of a run that trains on pseudo-labels: those that a model gives complete cases.

        Args:
            run: that trains on them.
            model: folder of the model that makes them, trained on the same few patients.
        """
        work, draw, source = self.work, self.drawn(run), self._folder(run.seed)
        # The same cases as distillation takes: what convert counted as complete.
        content = read_json(work.raw / _dataset(FEW, run.seed) / "dataset.json")
        complete, ending = unlabelled_cases(content), content["file_ending"]
        predicted, pseudo = self._folder(run.seed, "_predicted"), self._folder(run.seed, "_pseudo")
        if not pseudo.exists():
            command = f"nnUNetv2_mstkd predict -i {shlex.quote(str(source / 'unlabelled'))}"
            command += f" -m {shlex.quote(str(model))} -f {run.fold} -o {shlex.quote(str(predicted))}"
            command += " --source_labels --continue_prediction --disable_tta --disable_progress_bar"
            work.run(run.plans, f"{command} -npp 1 -nps 1 -device {work.device}")
            with replacing_folder(pseudo) as new:
                for name in (*draw.labelled, *draw.validated):
                    link_case(self._cases[name], new)
                for name in complete:
                    images = link_case(self._cases[name], new, segmentation=False)
                    shutil.copy(predicted / f"{name}{ending}", images / f"{name}-seg{ending}")
        self._finish(_dataset(PSEUDO, run.seed), pseudo, draw, more=complete, log=run.plans)

    def drawn(self, run: Run) -> Draw:
        """The labelled patients of a run, drawn by its seed from those whom its fold trains on.

        Raises:
            MSTKDError: there are too few.
        """
        work = self.work
        fold = read_json(work.splits)[run.fold]
        patient_of = read_json(work.raw / self.data.dataset / "dataset.json")["mstkd"]["patients"]
        patients = sorted({patient_of[case] for case in fold["train"]})
        if not 1 <= self.labelled < len(patients):
            raise MSTKDError(
                f"--labelled {self.labelled}: fold {run.fold} trains on {len(patients)} patients; choose 1 to"
                f" {len(patients) - 1}, so that some are left without a segmentation"
            )
        chosen = set(random.Random(run.seed).sample(patients, self.labelled))
        labelled = tuple(case for case in fold["train"] if patient_of[case] in chosen)
        others = tuple(case for case in fold["train"] if patient_of[case] not in chosen)
        return Draw(labelled, others, tuple(fold["val"]))

    @cached_property
    def _cases(self) -> dict[str, Case]:
        found = discover(self.data.source(self.work), BRATS_MODALITIES)
        return {case.name: case for case in found.cases}

    def _folder(self, seed: int, kind: str = "") -> Path:
        return self.work.out / "few" / f"seed_{seed}{kind}"

    def _link(self, draw: Draw, place: Path) -> None:
        if place.exists():
            return
        with replacing_folder(place) as new:
            for name in (*draw.labelled, *draw.validated):
                link_case(self._cases[name], new / "labelled")
            for name in draw.others:
                link_case(self._cases[name], new / "unlabelled", segmentation=False)

    def _finish(
        self, dataset: str, source: Path, draw: Draw, *, more: Sequence[str] = (), flags: str = "", log: str
    ) -> None:
        """Convert and preprocess with the plans of all patients; the split comes last: then it is whole.

        Args:
            dataset: name.
            source: folder of its cases.
            draw: who trains with a segmentation and who validates.
            more: cases that train with a segmentation too.
            flags: for the conversion.
            log: name of the commands' log.
        """
        work = self.work
        split = {"train": [*draw.labelled, *more], "val": list(draw.validated)}
        # The same in every place: a run's fold goes on saying whom it is evaluated on.
        wanted: list[dict[str, Any]] = [split] * self.data.folds
        splits = work.splits_of(dataset)
        if splits.exists() and read_json(splits) == wanted:
            return
        convert(work, source, dataset, f"--format {self.data.format} {flags}", log)
        folder = splits.parent
        shutil.copy(work.raw / dataset / "dataset.json", folder / "dataset.json")
        shutil.copy(work.splits.with_name("dataset_fingerprint.json"), folder)
        plans = read_json(work.plans(BASE_PLANS)) | {"dataset_name": dataset}
        write_json(plans, work.plans(BASE_PLANS, dataset))
        number = dataset.removeprefix("Dataset").partition("_")[0]
        which = f"-d {number} -c {self.data.configuration} -plans_name {BASE_PLANS}"
        work.run(log, f"nnUNetv2_preprocess {which} -np 2")
        write_json(wanted, splits)


def _dataset(cases: str, seed: int) -> str:
    return f"Dataset{_FIRST_ID[cases] + 2 * seed:03d}_{cases.capitalize()}Seed{seed}"
