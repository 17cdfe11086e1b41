"""``summary.json`` in nnU-Net's own format, one per subset, for whatever reads nnU-Net's.

Source of the format: nnunetv2.evaluation.evaluate_predictions (``compute_metrics_on_folder``). Dice and IoU
are nan where a label is in neither mask, whatever policy the tables follow. The mean over cases leaves those
out; the mean over labels is nan where that of one label is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.evaluation.record.record import PREDICTIONS, EvaluationRecord
from nnunetv2_mstkd.evaluation.record.score_store import CaseScores, SubsetScores
from nnunetv2_mstkd.files import write_json


def write_summaries(record: EvaluationRecord, stored: Mapping[str, CaseScores], folder: Path) -> None:
    """Write ``predictions/SUBSET/summary.json`` for each subset that has scores.

    Args:
        folder: of the evaluation; the segmentations themselves may lie elsewhere.
    """
    for subset in record.subsets:
        scores = {case: s.subsets[subset] for case, s in stored.items() if subset in s.subsets}
        if scores:
            place = folder / PREDICTIONS / subset
            place.mkdir(parents=True, exist_ok=True)
            summary = _summary(record, scores, record.prediction_folder(folder, subset))
            write_json(summary, place / "summary.json")


def _summary(record: EvaluationRecord, scores: Mapping[str, SubsetScores], folder: Path) -> dict[str, Any]:
    cases: list[dict[str, Any]] = [
        {
            "metrics": {
                record.region_keys[region]: _metrics(score, of_case.voxels)
                for region, score in of_case.regions.items()
            },
            "prediction_file": str(folder / f"{case}{record.file_ending}"),
            "reference_file": record.cases[case].reference,
        }
        for case, of_case in scores.items()
    ]
    metrics = [case["metrics"] for case in cases]
    mean = {
        key: {name: _mean([of_case[key][name] for of_case in metrics]) for name in values}
        for key, values in metrics[0].items()
    }
    names = next(iter(mean.values()))
    foreground = {name: float(np.mean([values[name] for values in mean.values()])) for name in names}
    return {"foreground_mean": foreground, "mean": mean, "metric_per_case": cases}


def _metrics(score: Any, voxels: int) -> dict[str, float]:
    either = score.tp + score.fp + score.fn
    return {
        "Dice": 2 * score.tp / (either + score.tp) if either else float("nan"),
        "FN": score.fn,
        "FP": score.fp,
        "IoU": score.tp / either if either else float("nan"),
        "TN": voxels - either,
        "TP": score.tp,
        "n_pred": score.tp + score.fp,
        "n_ref": score.tp + score.fn,
    }


def _mean(values: list[float]) -> float:
    array = np.asarray(values, dtype=float)
    return float(np.nanmean(array)) if np.isfinite(array).any() else float("nan")
