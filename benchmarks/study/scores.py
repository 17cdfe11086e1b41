"""Dice of some ways of training by number of modalities, and paired differences to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.compare import DEFAULT_RESAMPLES
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


class Scores:
    """Dice of every round and patient of some ways of training.

    Args:
        table: columns ``way``, ``round``, ``patient``, ``region``, ``subset``, ``dice``.
        reference: way that the others are set against.
        modalities: how many there are.
        seed, resamples: of the bootstrap over patients.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        reference: str,
        modalities: int,
        *,
        seed: int = 0,
        resamples: int = DEFAULT_RESAMPLES,
    ) -> None:
        self.table, self.reference, self.count = table, reference, modalities
        self.names: list[str] = list(dict.fromkeys(table["way"]))
        self.groups: list[str | int] = [INCOMPLETE, *range(self.count, 0, -1)]
        self._bootstrap = partial(Bootstrap, seed=seed, resamples=resamples)

    @cached_property
    def incomplete(self) -> int:
        """How many subsets lack a modality."""
        return sum(_number(pd.Series(self.table["subset"].unique())) < self.count)

    @cached_property
    def patients(self) -> int:
        """How many there are."""
        return int(self.table["patient"].nunique())

    @cached_property
    def means(self) -> pd.DataFrame:
        """Dice per way (rows) and group (columns): means over rounds, patients, regions and subsets."""
        rows = {name: values.mean(axis=(0, 1)) for name, values in self.by_patient.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=self.groups)

    @cached_property
    def by_patient(self) -> dict[str, np.ndarray]:
        """Way → Dice (rounds, patients in order of their names, groups), the regions averaged."""
        number = _number(self.table["subset"])
        rows = {n: self._means_of(number == n) for n in self.groups[1:]}
        rows[INCOMPLETE] = self._means_of(number < self.count)
        means = pd.DataFrame(rows)[self.groups].sort_index()
        return {
            name: means.loc[name].to_numpy().reshape(-1, self.patients, len(self.groups))
            for name in self.names
        }

    def _means_of(self, rows: pd.Series) -> pd.Series:
        return self.table[rows].groupby(["way", "round", "patient"])["dice"].mean()

    def seed_std(self, name: str) -> float:
        """Spread between rounds of the mean over the incomplete subsets; nan for one round."""
        means = self.by_patient[name][:, :, 0].mean(axis=1)
        return float(means.std(ddof=1)) if len(means) > 1 else float("nan")

    def differences(self, group: str | int) -> dict[str, Difference]:
        """Every other way minus the reference in one group; rounds averaged, Holm over the ways."""
        column = self.groups.index(group)
        return self._differences({n: v.mean(axis=0)[:, column] for n, v in self.by_patient.items()})

    def region_differences(self) -> dict[str, dict[str, Difference]]:
        """Region → the same over the incomplete subsets, Holm over the ways alone."""
        incomplete = self.table[_number(self.table["subset"]) < self.count]
        means = incomplete.groupby(["region", "way", "patient"])["dice"].mean()
        return {
            region: self._differences({name: means[region, name].to_numpy() for name in self.names})
            for region in dict.fromkeys(self.table["region"])
        }

    def _differences(self, values: Mapping[str, np.ndarray]) -> dict[str, Difference]:
        pairs = {n: of - values[self.reference] for n, of in values.items() if n != self.reference}
        corrected = holm(np.array([signed_rank_p(pair) for pair in pairs.values()]))
        bootstrap = self._bootstrap(self.patients)
        result = {}
        for (name, pair), p in zip(pairs.items(), corrected, strict=True):
            low, high = interval(bootstrap.means(pair[:, None]))
            result[name] = Difference(float(pair.mean()), float(low[0]), float(high[0]), float(p))
        return result


class ComparisonFolder(Scores):
    """What ``nnUNetv2_mstkd compare`` wrote, read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = read_json(folder / "comparison.json")
        record = self.record
        table = pd.concat([_of_run(run) for run in record["runs"]], ignore_index=True)
        table = table[table["subset"].isin(record["subsets"])]
        sampling = {key: record[key] for key in ("seed", "resamples")}
        super().__init__(table, record["reference"], len(record["modalities"]), **sampling)

    def models(self, name: str) -> list[dict[str, Any]]:
        """The records of a run's models: trainer, plans, configuration, folds, settings."""
        run = next(run for run in self.record["runs"] if run["name"] == name)
        return [evaluation["model"] for evaluation in run["evaluations"]]

    @cached_property
    def means(self) -> pd.DataFrame:
        """As compare has them, in means.csv."""
        table = pd.read_csv(self.folder / "means.csv")
        table = table[(table["metric"] == "dice") & table["subset"].isin(self.record["subsets"])]
        number = _number(table["subset"])
        columns = {n: table[number == n].groupby("run")["mean"].mean() for n in self.groups[1:]}
        columns[INCOMPLETE] = table[number < self.count].groupby("run")["mean"].mean()
        return pd.DataFrame(columns).loc[self.names, self.groups]

    def region_differences(self) -> dict[str, dict[str, Difference]]:
        """As compare has them, in differences.csv: Holm over all rows of its summary."""
        table = pd.read_csv(self.folder / "differences.csv")
        table = table[(table["metric"] == "dice") & (table["subset"] == "incomplete")]
        found: dict[str, dict[str, Difference]] = {}
        for row in table.to_dict("records"):
            numbers = (row[key] for key in ("difference", "low", "high", "p_holm"))
            found.setdefault(str(row["region"]), {})[str(row["run"])] = Difference(*numbers)
        return found


def _number(subsets: pd.Series) -> pd.Series:
    return subsets.str.count(r"\+") + 1


def _of_run(run: dict[str, Any]) -> pd.DataFrame:
    """Its evaluations; folds pooled, so that a round goes through all patients."""
    files = [Path(evaluation["folder"]) / "metrics.csv" for evaluation in run["evaluations"]]
    gone = [file for file in files if not file.is_file()]
    if gone:
        raise MSTKDError(f"no {gone[0]}; if the study was moved, run python -m benchmarks.study on it again")
    tables = [pd.read_csv(file) for file in files]
    rounds: dict[str, int] = {}
    for table in tables:
        table["round"] = table["patient"].map(lambda name: rounds.get(name, 0))
        for name in table["patient"].unique():
            rounds[name] = rounds.get(name, 0) + 1
    pooled = pd.concat(tables, ignore_index=True).assign(way=run["name"])
    return pooled[["way", "round", "patient", "region", "subset", "dice"]]
