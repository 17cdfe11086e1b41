"""What an evaluation was made with: which model, which versions, which commit."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.environment import quiet
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.models.building import trainer_class
from nnunetv2_mstkd.models.folder import Fold, ModelFolder
from nnunetv2_mstkd.settings import SETTINGS_KEY, Setting
from nnunetv2_mstkd.version import __version__

_PACKAGES = (
    "nnunetv2",
    "torch",
    "dynamic-network-architectures",
    "batchgeneratorsv2",
    "SimpleITK",
    "numpy",
    "scipy",
)


def versions() -> dict[str, str]:
    """Map package to version, for what decides the numbers."""
    return {
        "nnunetv2-mstkd": __version__,
        **{name: metadata.version(name) for name in _PACKAGES},
    }


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from (``-dirty`` with changes), or None."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def file_digest(paths: Sequence[Path]) -> str:
    """Compute SHA-256 over the bytes of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def describe_model(
    model: ModelFolder, folds: Sequence[Fold], checkpoint: str, inference: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the ``model`` of an evaluation's record.

    Args:
        inference: what changes predictions: step size, mirroring.
    """
    folder = model.path.resolve()
    parts = folder.name.split("__")
    trainer, plans = parts[:2] if len(parts) == 3 else (None, model.plans.get("plans_name"))
    configuration = model.plans["configurations"].get(model.configuration, {})
    return {
        "id": file_digest([model.path / f"fold_{fold}" / checkpoint for fold in folds]),
        "name": folder.name,
        "folder": str(folder),
        "trainer": trainer,
        "plans": plans,
        "configuration": model.configuration,
        "folds": list(folds),
        "checkpoint": checkpoint,
        "inference": dict(inference),
        "settings": dict(configuration.get(SETTINGS_KEY, {})),
        "in_force": settings_in_force(model.path / f"fold_{folds[0]}", trainer),
    }


def settings_in_force(fold: Path, trainer: str | None) -> dict[str, Any]:
    """Read the settings of a training, its trainer's defaults included; empty if it did not write them.

    Source: ``debug.json``, in which nnU-Net's trainer writes its attributes as text when training starts.
    """
    try:
        written = read_json(fold / "debug.json")
    except MSTKDError:
        return {}
    known = {
        name: written.get(setting.attribute_for(name)) for name, setting in _settings_of(trainer).items()
    }
    return {name: _value(text) for name, text in known.items() if text not in (None, "None")}


def reference_of(trainer: str | None) -> str:
    """Return the publication to cite for a trainer's method, beside nnU-Net's; empty where none is known."""
    return str(getattr(_class_of(trainer), "reference", ""))


def _settings_of(trainer: str | None) -> Mapping[str, Setting]:
    """Return the settings that a trainer reads; none of a trainer that is not this plugin's."""
    return getattr(_class_of(trainer), "settings_read", dict)()


def _class_of(trainer: str | None) -> type | None:
    try:
        with quiet():  # the search prints where it looked
            return trainer_class(trainer or "")
    except Exception:  # whatever nnU-Net's search meets on its way
        return None


def _value(text: Any) -> Any:
    try:
        return ast.literal_eval(str(text))
    except (SyntaxError, ValueError):
        return str(text)
