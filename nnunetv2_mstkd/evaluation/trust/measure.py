"""``nnUNetv2_mstkd trust``: put into a model what its evaluations showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.regions import regions_of
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.provenance import file_digest, versions
from nnunetv2_mstkd.evaluation.record.record import Evaluation, read_evaluation
from nnunetv2_mstkd.evaluation.trust.collecting import collect_facts
from nnunetv2_mstkd.evaluation.trust.gains import measure_gains
from nnunetv2_mstkd.evaluation.trust.learnt_from import (
    BY_SPLIT,
    check_not_learnt_from,
    validation_cases_of,
)
from nnunetv2_mstkd.evaluation.trust.signals import show_signals
from nnunetv2_mstkd.models.folder import ModelFolder
from nnunetv2_mstkd.trust.calibration import CROSS_VALIDATION, HELD_OUT, Calibration
from nnunetv2_mstkd.trust.facts import Facts
from nnunetv2_mstkd.trust.storage import checkpoint_digests, unfit

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """Read evaluations, each given once.

    Raises:
        MSTKDError: a folder is none, or is given twice.
    """
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise MSTKDError(f"the evaluation {folder} is given twice; give each one once")
        seen.add(folder.resolve())
    return [read_evaluation(folder) for folder in folders]


def measure(model: ModelFolder, evaluations: Sequence[Evaluation], *, held_out: bool = False) -> Calibration:
    """Say what evaluations show of a model.

    Args:
        held_out: the user states that no case was trained on, where the split is not here to look at.

    Raises:
        MSTKDError: an evaluation is of another model or has cases that it learnt from, or they do not belong
            together.
    """
    for evaluation in evaluations:
        _check_is_of(model, evaluation)
    groups = _groups(evaluations)
    known_by = check_not_learnt_from(model, evaluations, held_out=held_out)
    unit = "ml" if model.image_axes == (3,) else "cm²"
    facts = collect_facts(evaluations, unit)
    shown = {region: show_signals(facts, region) for region in facts.regions}
    first = evaluations[0].record
    checkpoint = str(first.model["checkpoint"])
    folds = sorted({fold for group in groups for fold in group}, key=str)
    return Calibration(
        kind=CROSS_VALIDATION if known_by == BY_SPLIT and _is_validation(model, evaluations) else HELD_OUT,
        known_by=known_by,
        folds=groups,
        checkpoint=checkpoint,
        digests=checkpoint_digests(model, folds, checkpoint),
        inference=first.model.get("inference", {}),
        modalities=first.modalities,
        regions=first.regions,
        unit=unit,
        evaluations=[_described(evaluation) for evaluation in evaluations],
        versions=versions(),
        signals={region: found.signals for region, found in shown.items()},
        shown={
            region: {"beyond_chance": found.beyond_chance, "changes": found.changes}
            for region, found in shown.items()
        },
        gains=measure_gains(facts, first.modalities),
        facts=facts,
    )


def check_is_about(
    known: Calibration, model: ModelFolder, evaluations: Sequence[Evaluation], *, held_out: bool = False
) -> None:
    """See that evaluations can tell whether what is known of a model holds.

    Args:
        held_out: the user states that no case was trained on, where the split is not here to look at.

    Raises:
        MSTKDError: one is of other weights or folds than what is known, or has cases that were learnt from.
    """
    for evaluation in evaluations:
        _check_is_of(model, evaluation)
        described = evaluation.record.model
        reason = unfit(known, model, described["folds"], str(described["checkpoint"]))
        if reason is not None:
            raise MSTKDError(f"{evaluation.folder} cannot check it: {reason}")
    check_not_learnt_from(model, evaluations, held_out=held_out)


def _check_is_of(model: ModelFolder, evaluation: Evaluation) -> None:
    record, described = evaluation.record, evaluation.record.model
    folds, checkpoint = described.get("folds"), described.get("checkpoint")
    if not folds or not checkpoint:
        raise MSTKDError(
            f"{evaluation.folder} scored segmentations that were there already: which model made them is not"
            " known; evaluate the model itself (nnUNetv2_mstkd evaluate -m ...)"
        )
    if record.modalities != model.modalities or dict(record.regions) != regions_of(model.dataset_json):
        raise MSTKDError(f"{evaluation.folder} is of a model with other modalities or regions")
    paths = [model.path / f"fold_{fold}" / str(checkpoint) for fold in folds]
    gone = [path for path in paths if not path.is_file()]
    if gone:
        raise MSTKDError(
            f"{evaluation.folder} is of {gone[0].parent.name}/{gone[0].name}, {model.path} has none"
        )
    if file_digest(paths) != described.get("id"):
        raise MSTKDError(
            f"{evaluation.folder} is of other weights than {model.path} has"
            f" (fold {' '.join(map(str, folds))}); evaluate this model"
        )


def _groups(evaluations: Sequence[Evaluation]) -> tuple[tuple[int | str, ...], ...]:
    """Return the folds that predicted together: one group, or single folds of a cross-validation."""
    first = evaluations[0]
    for evaluation in evaluations:
        for what in ("checkpoint", "inference"):
            one, two = first.record.model.get(what), evaluation.record.model.get(what)
            if one != two:
                raise MSTKDError(
                    f"different {what}: {one} in {first.folder}, {two} in {evaluation.folder}; evaluate both"
                    " the same way"
                )
    groups = tuple(dict.fromkeys(tuple(e.record.model["folds"]) for e in evaluations))
    if len(groups) > 1 and any(len(group) > 1 for group in groups):
        listed = "; ".join(" ".join(map(str, group)) for group in groups)
        raise MSTKDError(
            f"these evaluations do not belong together (folds {listed}): give one fold each (a"
            " cross-validation), or all of the same folds together (held-out cases)"
        )
    return groups


def _is_validation(model: ModelFolder, evaluations: Sequence[Evaluation]) -> bool:
    """Say whether each evaluation is of one fold, on cases that the split gives it for validation."""
    return all(
        len(evaluation.record.model["folds"]) == 1
        and set(evaluation.record.cases) <= validation_cases_of(model, evaluation.record.model["folds"][0])
        for evaluation in evaluations
    )


def _described(evaluation: Evaluation) -> dict[str, Any]:
    record = evaluation.record
    return {
        "model": record.model["id"],
        "folds": list(record.model["folds"]),
        "cases": len(record.cases),
        "date": record.sessions[-1].started if record.sessions else None,
        "nnunetv2-mstkd": record.versions.get("nnunetv2-mstkd"),
    }


def table_for_people(facts: Facts) -> dict[str, dict[str, dict[str, Any]]]:
    """Return subset → region → what was measured: numbers of cases, quantiles over cases."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for subset in sorted(set(facts.subsets.tolist()), key=lambda text: (text.count("+"), text)):
        rows = facts.rows(facts.subsets == subset)
        table[subset] = {
            region: {
                "cases": len(np.unique(rows.cases)),
                "patients": len(np.unique(rows.patients)),
                "dice": _distribution(found.dice),
                "hd95_mm": _distribution(found.hd95),
                "volume_error": _distribution(found.predicted - found.reference),
                "volume_error_without_sign": _distribution(np.abs(found.predicted - found.reference)),
                "dice_below_0.5": int((found.dice < 0.5).sum()),
            }
            for region, found in rows.regions.items()
        }
    return table


def _distribution(values: np.ndarray) -> Mapping[str, float | int | None]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"cases": 0}
    quantiles = {f"{100 * q:.0f}%": float(f"{np.quantile(known, q):.4g}") for q in QUANTILES}
    return {"cases": len(known), "mean": float(f"{known.mean():.4g}"), **quantiles}
