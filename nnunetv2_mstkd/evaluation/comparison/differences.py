"""Means of every run, and paired differences to the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nnunetv2_mstkd.evaluation.comparison.statistics import (
    Bootstrap,
    holm,
    interval,
    known_mean,
    signed_rank_p,
    wins_ties_losses,
)
from nnunetv2_mstkd.evaluation.comparison.values import Layout, RunValues
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, INCOMPLETE, METRICS

MEANS_COLUMNS = ("mean", "std", "low", "high", "n", "seeds", "seed_std")
DIFFERENCES_COLUMNS = ("difference", "low", "high", "p", "p_holm", "wins", "ties", "losses", "patients")
_KEYS = ["run", "region", "subset", "metric"]


def _index(run: str, layout: Layout) -> pd.DataFrame:
    """List the rows of one run in the order of an array (columns, regions, metrics), flattened."""
    product = pd.MultiIndex.from_product([[run], layout.columns, layout.regions, layout.metrics])
    return product.to_frame(index=False, name=["run", "subset", "region", "metric"])[_KEYS]


def _in_table_order(table: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Sort as tables print: run by run, and there by metric, region and subset."""
    orders = {"metric": layout.metrics, "region": layout.regions, "subset": layout.columns}
    ranks = {"run": {run: rank for rank, run in enumerate(dict.fromkeys(table["run"]))}}
    ranks |= {key: {name: rank for rank, name in enumerate(names)} for key, names in orders.items()}
    by = ["run", "metric", "region", "subset"]
    return table.sort_values(by, key=lambda c: c.map(ranks[c.name]), kind="stable", ignore_index=True)


def _known_interval(samples: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval, nan where fewer than two patients leave nothing to resample."""
    low, high = interval(samples)
    return np.where(counts > 1, low, np.nan), np.where(counts > 1, high, np.nan)


def means_table(values: Mapping[str, RunValues], layout: Layout, bootstrap: Bootstrap) -> pd.DataFrame:
    """Average every run over patients; summaries are means of the columns, as tables print them.

    Returns:
        ``_KEYS`` and ``MEANS_COLUMNS``, as :class:`Comparison` describes them.
    """
    tables = []
    for name, run in values.items():
        scores = layout.by_patient(run.scores)
        means = layout.with_summaries(known_mean(scores, axis=0)[None])[0]
        drawn = bootstrap.means(scores.reshape(len(scores), -1)).reshape(-1, *scores.shape[1:])
        drawn = layout.with_summaries(drawn).reshape(len(drawn), -1)
        each = layout.with_summaries(scores).reshape(len(scores), -1)
        counts = (~np.isnan(each)).sum(axis=0)
        low, high = _known_interval(drawn, counts)
        columns = (means.ravel(), _std(each), low, high, counts, run.seeds, run.seed_std.ravel())
        table = _index(name, layout)
        tables.append(table.assign(**dict(zip(MEANS_COLUMNS, columns, strict=True))))
    return _in_table_order(pd.concat(tables, ignore_index=True), layout)


def _std(values: np.ndarray) -> np.ndarray:
    """Compute the sample standard deviation per column over what is not nan; nan for fewer than two."""
    return pd.DataFrame(values).std(ddof=1).to_numpy()


def differences_table(
    values: Mapping[str, RunValues], reference: str, layout: Layout, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Compare every other run with the reference, paired: run minus reference.

    A pair is a case under a subset; one with a nan is left out. Pairs are averaged per patient, first over
    the patient's cases, then over the subsets; patients are what is resampled, ranked and counted.

    Returns:
        ``_KEYS`` and ``DIFFERENCES_COLUMNS``, as :class:`Comparison` describes them; no rows for one run.
    """
    tables = [
        _differences(name, run.scores - values[reference].scores, layout, bootstrap)
        for name, run in values.items()
        if name != reference
    ]
    if not tables:
        return pd.DataFrame(columns=[*_KEYS, *DIFFERENCES_COLUMNS])
    table = _in_table_order(pd.concat(tables, ignore_index=True), layout)
    table["p_holm"] = table.groupby(holm_family(table))["p"].transform(lambda p: holm(p.to_numpy()))
    return table[[*_KEYS, *DIFFERENCES_COLUMNS]]


def _differences(name: str, pairs: np.ndarray, layout: Layout, bootstrap: Bootstrap) -> pd.DataFrame:
    each = layout.with_summaries(layout.by_patient(pairs))
    each = each.reshape(len(each), -1)
    counts = (~np.isnan(each)).sum(axis=0)
    low, high = _known_interval(bootstrap.means(each), counts)
    table = _index(name, layout)
    signs = table["metric"].map(lambda metric: METRICS[metric].sign)
    outcomes = [wins_ties_losses(column, sign) for column, sign in zip(each.T, signs, strict=True)]
    table[["wins", "ties", "losses"]] = np.array(outcomes)
    return table.assign(
        difference=known_mean(each, axis=0),
        low=low,
        high=high,
        p=[signed_rank_p(column) for column in each.T],
        patients=counts,
    )


def holm_family(differences: pd.DataFrame) -> pd.Series:
    """Name the table in which each row is printed; Holm's correction goes over the rows of one.

    One table per metric holds the summaries (``Avg.`` and ``incomplete``) of all runs; one per metric and
    run holds the single subsets.
    """
    summary = differences["subset"].isin([AVERAGE, INCOMPLETE])
    return differences["metric"] + "\n" + differences["run"].where(~summary, "")
