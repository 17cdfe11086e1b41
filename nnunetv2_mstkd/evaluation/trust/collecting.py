"""From the tables of evaluations to facts without names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import Evaluation
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.evaluation.record.tables_of_scores import missing_scores
from nnunetv2_mstkd.inference.records import FOLD_AGREEMENT_KEY, read_records
from nnunetv2_mstkd.trust.expectation import per_unit
from nnunetv2_mstkd.trust.facts import Facts, RegionFacts, numbered

logger = logging.getLogger(__name__)

_KEYS = ["case", "subset"]


def collect_facts(evaluations: Sequence[Evaluation], unit: str) -> Facts:
    """Read everything that was measured.

    Args:
        evaluations: of one model, over different cases.
        unit: of the facts' volumes: ``ml`` or ``cm²``.

    Raises:
        MSTKDError: evaluations differ in modalities or regions, share a case, or have none.
    """
    _check_alike(evaluations)
    for evaluation in evaluations:
        _warn_of_gaps(evaluation)
    table = pd.concat([_rows(evaluation) for evaluation in evaluations], ignore_index=True)
    if table.empty:
        raise MSTKDError(f"{evaluations[0].folder} has no scores; run nnUNetv2_mstkd evaluate again")
    regions = list(evaluations[0].record.regions)
    keys = table[[*_KEYS, "patient"]].drop_duplicates(_KEYS)
    index = pd.MultiIndex.from_frame(keys[_KEYS])
    facts = {}
    for region in regions:
        columns = table[table["region"] == region].set_index(_KEYS)
        if len(columns) != len(index) or not columns.index.is_unique:
            raise MSTKDError(f"the metrics lack rows of region {region}; run nnUNetv2_mstkd evaluate again")
        facts[region] = _region_facts(columns.reindex(index), per_unit(unit))
    return Facts(
        keys["subset"].to_numpy(dtype=object),
        numbered(keys["case"].tolist()),
        numbered(keys["patient"].tolist()),
        facts,
    )


def _check_alike(evaluations: Sequence[Evaluation]) -> None:
    first, seen = evaluations[0], dict[str, Evaluation]()
    for evaluation in evaluations:
        for what in ("modalities", "regions"):
            if getattr(evaluation.record, what) != getattr(first.record, what):
                raise MSTKDError(f"{evaluation.folder} has other {what} than {first.folder}")
        for case in evaluation.record.cases:
            other = seen.setdefault(case, evaluation)
            if other is not evaluation:
                raise MSTKDError(
                    f"case {case} is in {other.folder} and in {evaluation.folder}; every case counts once, so"
                    " give folds of one cross-validation, or one evaluation"
                )


def _warn_of_gaps(evaluation: Evaluation) -> None:
    store = ScoreStore(evaluation.folder)
    stored = {case: store.read(case) for case in evaluation.record.cases}
    left = missing_scores(evaluation.record, stored)
    if left:
        case, subset = left[0]
        logger.warning(
            "%s lacks %d scores (first: %s under %s): what is said rests on the others; to have them, run the"
            " evaluation again",
            *(evaluation.folder, len(left), case, subset),
        )


def _rows(evaluation: Evaluation) -> pd.DataFrame:
    """Return the table with one more column, ``agreement``: nan where it was not recorded."""
    table = evaluation.metrics
    agreement = {}
    for subset in table["subset"].unique():
        records = read_records(evaluation.record.prediction_folder(evaluation.folder, subset))
        for case, entry in records.items():
            for region, dice in entry.get(FOLD_AGREEMENT_KEY, {}).items():
                agreement[case, subset, region] = dice
    keys = zip(table["case"], table["subset"], table["region"], strict=True)
    return table.assign(agreement=[agreement.get(key, np.nan) for key in keys])


def _region_facts(table: pd.DataFrame, per: float) -> RegionFacts:
    tp, fp, fn = (table[name].to_numpy(dtype=float) for name in ("tp", "fp", "fn"))
    total = 2 * tp + fp + fn
    dice = np.divide(2 * tp, total, out=np.ones_like(tp), where=total > 0)
    empty = (tp + fp == 0) | (tp + fn == 0)
    return RegionFacts(
        dice=dice,
        hd95=np.where(empty, np.nan, table["hd95"].to_numpy(dtype=float)),
        reference=table["volume_reference"].to_numpy(dtype=float) / per,
        predicted=table["volume_prediction"].to_numpy(dtype=float) / per,
        agreement=table["agreement"].to_numpy(dtype=float),
    )
