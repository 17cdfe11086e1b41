"""Scores that outlive a study's folder: a CSV file, from which the tables of scores come again.

A row is a region of a patient in a round of a way; a column is a subset, with Dice to four decimals. The
first way is the reference. Patients are numbers, in the order of their names.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.study.scores import Scores
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path

_ROW = ["way", "round", "patient", "region"]


def keep(scores: Scores, path: Path) -> None:
    """Write scores to a file."""
    names = sorted(scores.table["patient"].unique())
    table = scores.table.assign(patient=scores.table["patient"].map({n: i + 1 for i, n in enumerate(names)}))
    # A patient may have several cases.
    table = table.groupby([*_ROW, "subset"], sort=False)["dice"].mean().unstack("subset").reset_index()
    others = [name for name in scores.names if name != scores.reference]
    for column, order in (
        ("way", [scores.reference, *others]),
        ("region", list(scores.table["region"].unique())),
    ):
        table[column] = pd.Categorical(table[column], order)
    subsets = sorted(scores.table["subset"].unique(), key=lambda subset: (subset.count("+"), subset))
    table = table.sort_values(_ROW)[[*_ROW, *subsets]]
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")


def read_kept(path: Path) -> Scores:
    """Read what :func:`keep` wrote.

    Raises:
        MSTKDError: there is no such file, or it is another.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MSTKDError(
            f"cannot read {path}: {reason}; give a file of benchmarks.study.results --keep"
        ) from None
    if list(table.columns[: len(_ROW)]) != _ROW:
        raise MSTKDError(
            f"{path} has columns {', '.join(table.columns[:4])}, not {', '.join(_ROW)}; give a file of"
            " benchmarks.study.results --keep"
        )
    subsets = table.columns[len(_ROW) :]
    modalities = {name for subset in subsets for name in subset.split("+")}
    table = table.melt(_ROW, var_name="subset", value_name="dice")
    return Scores(table, str(table["way"].iloc[0]), len(modalities))
