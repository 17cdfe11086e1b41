"""Paired statistics over patients: percentile bootstrap, Wilcoxon signed-rank test, Holm's correction.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval);
Wilcoxon, Biometrics Bulletin 1, 1945, 80-83; Holm, Scandinavian Journal of Statistics 6, 1979, 65-70.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.stats import rankdata, wilcoxon

# Rows of resampled patients that are multiplied at once: bounds the memory of large data sets.
_CHUNK = 1000
# Scores are sums and ratios of floats: differences below this are rounding, not results.
_DECIMALS = 10
# Differences up to which the signed-rank test is exact; counts of rank sums stay below 2**53.
_EXACT = 50
CONFIDENCE = 0.95


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Average the values that are not nan; nan where there is none. No warnings."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis))


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=np.asarray(counts) > 0)


def group_means(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Average per group what is not nan.

    Args:
        values: (N, ...).
        groups: (N,), the group of each row, 0 to ``count`` - 1.

    Returns:
        (count, ...).
    """
    known = ~np.isnan(values)
    sums, counts = (np.zeros((count, *values.shape[1:])) for _ in range(2))
    np.add.at(sums, groups, np.where(known, values, 0.0))
    np.add.at(counts, groups, known)
    return _ratio(sums, counts)


class Bootstrap:
    """Patients drawn with replacement, the same draws for every column, so that results belong together.

    Args:
        patients: how many there are.
        seed: the same seed gives the same draws.
        resamples: how often all patients are drawn.
    """

    def __init__(self, patients: int, *, seed: int, resamples: int) -> None:
        self.patients, self.seed, self.resamples = patients, seed, resamples

    @cached_property
    def _draws(self) -> np.ndarray:
        """(resamples, patients): how often each patient was drawn."""
        shares = np.full(self.patients, 1 / self.patients)
        draws = np.random.default_rng(self.seed).multinomial(self.patients, shares, size=self.resamples)
        return draws.astype(np.uint16 if self.patients < 2**16 else np.uint32)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Average the drawn patients that are not nan: (patients, columns) → (resamples, columns)."""
        known = ~np.isnan(values)
        filled, complete = np.where(known, values, 0.0), bool(known.all())
        result = np.empty((self.resamples, values.shape[1]))
        for start in range(0, self.resamples, _CHUNK):
            draws = self._draws[start : start + _CHUNK].astype(float)
            counts = np.full_like(filled[:1], self.patients) if complete else draws @ known.astype(float)
            sums = draws @ filled
            result[start : start + _CHUNK] = _ratio(sums, np.broadcast_to(counts, sums.shape))
        return result


def interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of bootstrap samples (resamples, columns): both ends per column."""
    tail = 100 * (1 - CONFIDENCE) / 2
    # nanpercentile goes through the columns one by one, which is slow and rarely needed.
    percentile = np.nanpercentile if np.isnan(samples).any() else np.percentile
    known = ~np.isnan(samples).all(axis=0)
    low, high = np.full((2, samples.shape[1]), np.nan)
    if known.any():
        low[known], high[known] = percentile(samples[:, known], (tail, 100 - tail), axis=0)
    return low, high


def signed_rank_p(differences: np.ndarray) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, nan left out, zeros dropped (Wilcoxon's way).

    1.0 where every difference is zero; nan where there is none. Exact for up to 50 differences that are not
    zero, ties included; then the normal approximation. With n differences that are not zero it cannot be
    smaller than 2 / 2**n, so that fewer than six never reach 0.05.
    """
    values = np.round(differences[~np.isnan(differences)], _DECIMALS)
    if not values.size:
        return float("nan")
    values = values[values != 0]
    if not values.size:
        return 1.0
    return _exact_p(values) if values.size <= _EXACT else float(wilcoxon(values, method="approx").pvalue)


def _exact_p(values: np.ndarray) -> float:
    """Count over all 2**n ways to give the ranks signs; scipy's exact distribution knows no ties.

    Twice the ranks are whole numbers, tied or not, so the rank sums are counted rank by rank.
    """
    ranks = np.rint(2 * rankdata(np.abs(values))).astype(int)
    ways = np.ones(1)
    for rank in ranks:
        without, with_it = np.zeros((2, ways.size + rank))
        without[: ways.size], with_it[rank:] = ways, ways
        ways = without + with_it
    observed = ranks[values > 0].sum()
    tail = min(ways[: observed + 1].sum(), ways[observed:].sum()) / 2.0**values.size
    return min(1.0, 2 * float(tail))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values (n,) for n tests by Holm's step-down method; nan is no test and stays nan."""
    result = np.full(len(p_values), np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return result


def wins_ties_losses(differences: np.ndarray, sign: int) -> tuple[int, int, int]:
    """Count the differences that are better, equal and worse; nan values count nowhere.

    Args:
        sign: +1 where more is better, -1 where less is.
    """
    values = sign * np.round(differences[~np.isnan(differences)], _DECIMALS)
    return int((values > 0).sum()), int((values == 0).sum()), int((values < 0).sum())
