"""From a comparison's files to Dice by number of modalities, and paired differences to its reference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap, holm, interval, signed_rank_p
from nnunetv2_mstkd.files import read_json

# Columns of scores: the number of modalities, and the mean over the incomplete subsets.
INCOMPLETE = "inc"


@dataclass(frozen=True)
class Difference:
    """One arm minus the reference, in Dice, paired per patient.

    Attributes:
        mean: over the patients.
        low, high: bootstrap 95 % interval over patients.
        p_holm: Wilcoxon signed-rank, corrected over the arms of the comparison.
    """

    mean: float
    low: float
    high: float
    p_holm: float


class ComparisonFolder:
    """What ``nnUNetv2_mstkd compare`` wrote, read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = read_json(folder / "comparison.json")
        self.reference: str = self.record["reference"]
        self.names: list[str] = [run["name"] for run in self.record["runs"]]
        self.count = len(self.record["modalities"])
        self.groups: list[str | int] = [INCOMPLETE, *range(self.count, 0, -1)]

    def models(self, name: str) -> list[dict[str, Any]]:
        """The records of a run's models: trainer, plans, configuration, folds, settings."""
        run = next(run for run in self.record["runs"] if run["name"] == name)
        return [evaluation["model"] for evaluation in run["evaluations"]]

    @cached_property
    def means(self) -> pd.DataFrame:
        """Dice per run (rows) and group (columns): means over regions and subsets, from means.csv."""
        table = pd.read_csv(self.folder / "means.csv")
        table = table[(table["metric"] == "dice") & table["subset"].isin(self.record["subsets"])]
        table = table.assign(number=table["subset"].str.count(r"\+") + 1)
        columns = {n: table[table["number"] == n].groupby("run")["mean"].mean() for n in self.groups[1:]}
        columns[INCOMPLETE] = table[table["number"] < self.count].groupby("run")["mean"].mean()
        return pd.DataFrame(columns).loc[self.names, self.groups]

    @cached_property
    def by_patient(self) -> dict[str, np.ndarray]:
        """Run → Dice (seeds, patients, groups), the regions averaged."""
        return {run["name"]: self._of_run(run) for run in self.record["runs"]}

    def _of_run(self, run: dict[str, Any]) -> np.ndarray:
        """Patients in order of their names; folds pooled, so that a seed is a round through all of them."""
        tables = [self._patients(Path(evaluation["folder"])) for evaluation in run["evaluations"]]
        pooled = pd.concat(tables).sort_index(kind="stable")
        rounds = len(pooled) // pooled.index.nunique()
        values: np.ndarray = pooled.to_numpy().reshape(-1, rounds, len(self.groups))
        return values.swapaxes(0, 1)

    def _patients(self, evaluation: Path) -> pd.DataFrame:
        table = pd.read_csv(evaluation / "metrics.csv")
        number = table["subset"].str.count(r"\+") + 1
        columns = {n: table[number == n].groupby("patient")["dice"].mean() for n in self.groups[1:]}
        columns[INCOMPLETE] = table[number < self.count].groupby("patient")["dice"].mean()
        return pd.DataFrame(columns)[self.groups]

    def seed_std(self, name: str) -> float:
        """Spread between seeds of the mean over the incomplete subsets; nan for one seed."""
        means = self.by_patient[name][:, :, 0].mean(axis=1)
        return float(means.std(ddof=1)) if len(means) > 1 else float("nan")

    def differences(self, group: str | int) -> dict[str, Difference]:
        """Every other run minus the reference in one group; seeds averaged, Holm over the runs."""
        column, reference = self.groups.index(group), self.by_patient[self.reference].mean(axis=0)
        others = [name for name in self.names if name != self.reference]
        pairs = {n: (self.by_patient[n].mean(axis=0) - reference)[:, column] for n in others}
        corrected = holm(np.array([signed_rank_p(values) for values in pairs.values()]))
        bootstrap = Bootstrap(len(reference), seed=self.record["seed"], resamples=self.record["resamples"])
        result = {}
        for (name, values), p in zip(pairs.items(), corrected, strict=True):
            low, high = interval(bootstrap.means(values[:, None]))
            result[name] = Difference(float(values.mean()), float(low[0]), float(high[0]), float(p))
        return result

    def region_differences(self) -> pd.DataFrame:
        """compare's own rows over the incomplete subsets: Dice per run and region, Holm over its summary."""
        table = pd.read_csv(self.folder / "differences.csv")
        return table[(table["metric"] == "dice") & (table["subset"] == "incomplete")]
