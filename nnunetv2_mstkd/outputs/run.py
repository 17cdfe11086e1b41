"""What segments the cases of a run: the model, how it is used, and the versions of the software."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from nnunetv2_mstkd.engines import TORCH
from nnunetv2_mstkd.evaluation.record.provenance import describe_model, reference_of, versions
from nnunetv2_mstkd.evaluation.record.record import SHORT_ID
from nnunetv2_mstkd.models.folder import Fold, ModelFolder

_LEFT_OUT = ("folder", "settings")  # of the machine; and what ``in_force`` has as well


def describe_run(
    model: ModelFolder,
    folds: Sequence[Fold],
    checkpoint: str,
    *,
    step_size: float,
    mirroring: bool,
    engine: str = TORCH,
) -> dict[str, Any]:
    """Return a run of ``statistics.json``. It reads the checkpoints, to tell trainings of one name apart.

    Args:
        folds: those that predict.
        checkpoint: file name in the folds' folders.
        step_size: step of the sliding window in patches.
        mirroring: whether mirrored patches are averaged.
        engine: what runs the network.
    """
    inference = {"step_size": step_size, "mirroring": mirroring}
    described = describe_model(model, folds, checkpoint, inference)
    return {
        "model": {name: value for name, value in described.items() if name not in _LEFT_OUT},
        "modalities": list(model.modalities),
        "reference": reference_of(described["trainer"]),
        "engine": engine,
        "versions": versions() if engine == TORCH else versions() | {engine: metadata.version(engine)},
    }


def model_name(run: dict[str, Any]) -> str:
    """Name a model as ``metrics.csv`` of ``evaluate`` does: folder's name and the start of its digest."""
    return f"{run['model']['name']}@{str(run['model']['id'])[:SHORT_ID]}"
