"""Every trainer by name: what ``-tr`` finds, and the folder that explains it.

The classes are imported when first used: a network of a method can be had without nnU-Net's training code.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
