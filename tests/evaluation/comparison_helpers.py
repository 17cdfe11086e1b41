"""Changes to an evaluation's table and record, and a look into the tables of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

TEXT = {"case": str, "patient": str}


def change_metrics(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Put ``change(table)`` in the place of an evaluation's metrics."""
    change(pd.read_csv(folder / "metrics.csv", dtype=TEXT)).to_csv(folder / "metrics.csv", index=False)


def change_record(folder: Path, **values) -> None:
    """Set fields of an evaluation's record."""
    path = folder / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_model(folder: Path, trainer: str, **values) -> Path:
    """Say that an evaluation is of another model."""
    name = f"{trainer}__{values.get('plans', 'nnUNetMSTKDPlans')}__3d_fullres"
    change_record(
        folder, model={"id": f"{trainer}-{folder.name}", "name": name, "trainer": trainer, **values}
    )
    return folder


def join_patients(folder: Path, cases: list[str], patient: str) -> None:
    """Make several cases belong to one patient."""
    record = json.loads((folder / "evaluation.json").read_text())
    for case in cases:
        record["cases"][case]["patient"] = patient
    change_record(folder, cases=record["cases"])
    change_metrics(folder, lambda t: t.assign(patient=t["patient"].mask(t["case"].isin(cases), patient)))


def remove_modality(folder: Path, case: str, modality: str) -> None:
    """Make a case lack a modality: the record lists the images that it has, and rows that need it go."""
    record = json.loads((folder / "evaluation.json").read_text())
    have = [name for name in record["modalities"] if name != modality]
    record["cases"][case]["images"] = {name: f"{case}-{name}.nii.gz" for name in have}
    change_record(folder, cases=record["cases"])
    remove_rows(folder, case, modality)


def remove_rows(folder: Path, case: str, modality: str) -> None:
    """Take away what a case scored under subsets with a modality."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        needs = table["subset"].map(lambda subset: modality in subset.split("+"))
        return table[~(needs & (table["case"] == case))]

    change_metrics(folder, change)


def only_subsets(folder: Path, subsets: list[str]) -> None:
    """Make an evaluation one of these subsets only."""
    change_record(folder, subsets=subsets)
    change_metrics(folder, lambda table: table[table["subset"].isin(subsets)])


def set_scores(folder: Path, scores: dict[str, float], **where: str) -> None:
    """Set the Dice of cases, everywhere or where columns have the values given."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        for case, dice in scores.items():
            rows = table["case"] == case
            for column, value in where.items():
                rows &= table[column] == value
            table.loc[rows, "dice"] = dice
        return table

    change_metrics(folder, change)


def only(table: pd.DataFrame, **where: str) -> pd.Series:
    """The one row with these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, table
    return table.iloc[0]
