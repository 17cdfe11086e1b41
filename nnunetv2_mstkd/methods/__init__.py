"""Every trainer by name: what ``-tr`` finds, and the folder that explains it.

The classes are imported when first used: a network of a method can be had without nnU-Net's training code.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nnunetv2_mstkd.settings import Setting

_HOMES = {
    "nnUNetTrainerFullModality": "baselines",
    "nnUNetTrainerModalityDropout": "baselines",
    "nnUNetTrainerMSTKD": "mstkd.trainer",
    "nnUNetTrainerMSTKDUNet": "mstkd.trainer",
    "nnUNetTrainerMSTKDJoint": "mstkd.variants",
    "nnUNetTrainerMSTKDShared": "mstkd.variants",
    "nnUNetTrainerMSTKDFrozenTeacher": "mstkd.variants",
    "nnUNetTrainerMSTKDOfficial": "mstkd.official",
    "nnUNetTrainerMSTKD_woTransformerKD": "mstkd.variants",
    "nnUNetTrainerMSTKD_woGSME": "mstkd.variants",
    "nnUNetTrainerMSTKD_woSLKD": "mstkd.variants",
    "nnUNetTrainerMSTKD_PlainStudent": "mstkd.variants",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def known_settings() -> dict[str, Setting]:
    """Every setting of the plans that some trainer reads, by name."""
    return {name: setting for trainer in _trainers() for name, setting in trainer.settings_read().items()}


def known_terms() -> tuple[str, ...]:
    """Names that the setting ``weights`` may hold, of all trainers."""
    return tuple(dict.fromkeys(name for t in _trainers() for name in getattr(t, "default_weights", ())))


def _trainers() -> list[Any]:
    return [__getattr__(name) for name in _HOMES]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
