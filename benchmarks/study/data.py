"""What a study trains and tests on: a data set, its folds, and the patients whom no training sees."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

from benchmarks.study.described import DescribedData
from benchmarks.study.runs import Run
from benchmarks.study.workplace import PLANS_OF, Workplace
from nnunetv2_mstkd.datasets.cases import Case
from nnunetv2_mstkd.files import read_json, write_json


class StudyData(DescribedData):
    """A data set in a study's folder, made by the real commands, each part once."""

    @abstractmethod
    def make(self, work: Workplace, runs: Iterable[Run]) -> None:
        """Make everything that the runs read; none is taken for whole that is not."""

    @abstractmethod
    def held_out(self, work: Workplace, fold: int) -> Path:
        """Return the folder of the patients who are evaluated, whom a training of ``fold`` does not see."""

    @abstractmethod
    def source(self, work: Workplace) -> Path:
        """Return the folder of the patients who train, with their segmentations."""

    def prepare(self, work: Workplace, runs: Iterable[Run]) -> None:
        """Preprocess, and write the plans of the runs' networks."""
        for network in dict.fromkeys(("mstkdnet", *(run.arm.network for run in runs))):
            self._plan(work, network)

    def _plan(self, work: Workplace, network: str) -> None:
        """Plans of a network; those of MSTKDNet come last of the preprocessing: they say that it is whole."""
        name, flags = PLANS_OF[network]
        if work.plans(name).exists():
            return
        which = f"-d {self.dataset_id} -c {self.configuration}"
        if network == "mstkdnet":
            work.run("data", f"nnUNetv2_plan_and_preprocess {which} -npfp 2 -np 2")
        work.run("data", f"nnUNetv2_mstkd plan {which} {flags} {work.training.plan}")

    def convert(self, work: Workplace, source: Path, flags: str) -> None:
        """Convert the patients who train."""
        convert(work, source, self.dataset, f"--format {self.format} {flags}")


def convert(work: Workplace, source: Path, dataset: str, flags: str, log: str = "data") -> None:
    """The raw data set appears whole, and its split after it: a kill in between leaves one of the two."""
    raw, splits = work.raw / dataset, work.splits_of(dataset)
    if raw.exists() and splits.exists():
        return
    again = " --overwrite" if raw.exists() or splits.exists() else ""
    number, _, name = dataset.removeprefix("Dataset").partition("_")
    command = f"nnUNetv2_mstkd convert -i {shlex.quote(str(source))} -d {number} --name {name}"
    work.run(log, f"{command} {flags}{again}")


def link_case(case: Case, folder: Path, *, segmentation: bool = True) -> Path:
    """Links to a case's files, in a folder of its name in ``folder``, which is returned."""
    target = folder / case.name
    target.mkdir(parents=True)
    for file in (*case.images.values(), case.segmentation if segmentation else None):
        if file is not None:
            (target / file.name).symlink_to(file)
    return target


def limit_validation(splits: Path, count: int, folds: int = 1) -> None:
    """Let the first folds validate on ``count`` patients each: what nnU-Net finds there is only logged."""
    content = read_json(splits)
    if any(len(fold["val"]) > count for fold in content[:folds]):
        for fold in content[:folds]:
            fold["val"] = fold["val"][:count]
        write_json(content, splits)
