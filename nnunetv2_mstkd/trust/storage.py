"""Where a model keeps what is known of its quality.

``trust.json`` lies beside ``plans.json``. nnU-Net's exporter takes only files that it knows, so each fold's
``debug.json`` carries a copy: the exporter takes that one, and a new training overwrites it, as it should.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path, ends_digest, read_json, writable_folder, write_json
from nnunetv2_mstkd.models.folder import Fold, ModelFolder
from nnunetv2_mstkd.trust.calibration import Calibration
from nnunetv2_mstkd.trust.conformal import COVERAGE, patients_needed

logger = logging.getLogger(__name__)

TRUST_FILE = "trust.json"
CARRIER, CARRIED_KEY = "debug.json", "mstkd_trust"


def checkpoint_digests(model: ModelFolder, folds: Iterable[Fold], checkpoint: str) -> dict[str, str]:
    """Digest the weights of folds: fold (as text) → digest."""
    return {str(fold): ends_digest(model.path / f"fold_{fold}" / checkpoint) for fold in folds}


def write_trust(model: ModelFolder, calibration: Calibration, table: Mapping[str, Any]) -> Path:
    """Write ``trust.json``, and the copies that travel with nnU-Net's exporter: all of them or none.

    Args:
        table: the same in numbers for people; nothing reads it.

    Returns:
        The file.

    Raises:
        MSTKDError: a folder cannot be written.
    """
    fold_folders = [model.path / f"fold_{fold}" for fold in calibration.every_fold]
    for folder in (model.path, *fold_folders):
        writable_folder(folder)
    content = calibration.to_json()
    facts = content.pop("facts")
    path = model.path / TRUST_FILE
    # The facts are thousands of numbers: on lines of their own nobody finds the rest.
    text = json.dumps({**content, "table": table, "facts": "@facts"}, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text.replace('"@facts"', json.dumps(facts)) + "\n", encoding="utf-8")
    for folder in fold_folders:
        carrier = folder / CARRIER
        carried = read_json(carrier) if carrier.is_file() else {}
        write_json({**carried, CARRIED_KEY: json.dumps({**content, "facts": facts})}, carrier)
    return path


def read_trust(model: ModelFolder) -> Calibration | None:
    """Read what is known of a model; None where nothing is.

    Raises:
        MSTKDError: the file is none of ours, or of a later version.
    """
    path = model.path / TRUST_FILE
    try:
        content = read_json(path) if path.is_file() else None
    except MSTKDError as error:
        raise MSTKDError(f"{error}; make it again: {_how_to(model)}") from None
    if content is None:
        for path in sorted(model.path.glob(f"fold_*/{CARRIER}")):
            try:
                text = read_json(path).get(CARRIED_KEY)
                content = None if text is None else json.loads(text)
            except (MSTKDError, AttributeError, ValueError):  # nnU-Net's own file, whatever is in it
                continue
            if content is not None:
                break
    if content is None:
        return None
    try:
        return Calibration.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MSTKDError(
            f"{path} is not what nnUNetv2_mstkd trust writes ({error!r}); make it again: {_how_to(model)}"
        ) from None


@dataclass(frozen=True)
class Found:
    """What is known of a model for a prediction.

    Attributes:
        calibration: None where nothing is known.
        says: one line: what it rests on, or why nothing is known and what to do.
    """

    calibration: Calibration | None
    says: str


def find_trust(
    model: ModelFolder,
    folds: Sequence[Fold],
    checkpoint: str,
    inference: Mapping[str, Any] | None = None,
) -> Found:
    """Look for what is known of predictions by these folds.

    Args:
        checkpoint: file name in each fold's folder.
        inference: ``step_size`` and ``mirroring`` of the prediction.
    """
    remedy = _how_to(model)
    try:
        calibration = read_trust(model)
    except MSTKDError as error:
        return Found(None, f"quality not known: {error}")
    if calibration is None:
        return Found(None, f"quality not known: this model has no {TRUST_FILE}; make it: {remedy}")
    reason = unfit(calibration, model, folds, checkpoint)
    if reason is not None:
        return Found(None, f"quality not known: {reason}; measure it: {remedy}")
    return Found(calibration, _rests_on(calibration, folds, inference or {}))


def _how_to(model: ModelFolder) -> str:
    return f"nnUNetv2_mstkd trust -m {shlex.quote(str(model.path))} --evaluation OUT (docs/trust.md)"


def unfit(calibration: Calibration, model: ModelFolder, folds: Sequence[Fold], checkpoint: str) -> str | None:
    """Say why what is known is not about predictions by these folds; None where it is.

    Args:
        checkpoint: file name in each fold's folder.
    """
    measured = "; ".join(" ".join(map(str, group)) for group in calibration.folds)
    if calibration.checkpoint != checkpoint:
        return f"{TRUST_FILE} is about {calibration.checkpoint}, this prediction takes {checkpoint}"
    if calibration.describes(folds) is None:
        return f"{TRUST_FILE} is about folds {measured}, this prediction takes {' '.join(map(str, folds))}"
    if calibration.modalities != model.modalities:
        return f"{TRUST_FILE} is about a model of {', '.join(calibration.modalities)}"
    for fold, digest in checkpoint_digests(model, folds, checkpoint).items():
        if calibration.digests.get(fold) != digest:
            return f"{TRUST_FILE} was measured with other weights of fold {fold}"
    return None


def _rests_on(calibration: Calibration, folds: Sequence[Fold], inference: Mapping[str, Any]) -> str:
    measured = f"expected quality: measured on {calibration.patients} patients ({calibration.kind}); "
    if calibration.patients < patients_needed(1 - COVERAGE):
        text = f"{measured}too few for intervals, which therefore are 0 to 1"
    else:
        text = f"{measured}intervals are made to cover 90 % of new cases that are like those"
    if calibration.describes(folds) == "single folds":
        text += "; single folds were measured, their mean is usually no worse"
    for name, then in calibration.inference.items():
        now = inference.get(name, then)
        if now != then:
            text += f"; measured {_in_words(name, then)}, this prediction is made {_in_words(name, now)}"
    return text


def _in_words(setting: str, value: Any) -> str:
    if setting == "mirroring":
        return "with mirroring" if value else "without mirroring (--disable_tta)"
    return f"with {setting} {value}"
