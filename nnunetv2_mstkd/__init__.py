"""nnU-Net for incomplete MRI: MST-KDNet distillation beside an untouched nnunetv2.

The names below are this package's Python interface (docs/api.md). They are imported when first used, so
``import nnunetv2_mstkd`` needs neither torch nor SimpleITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2_mstkd.inference.images_in_memory import Volume
    from nnunetv2_mstkd.inference.result import SegmentationResult
    from nnunetv2_mstkd.inference.segmenter import Segmenter, segment

__version__ = "0.1.0"
__all__ = ["MSTKDError", "SegmentationResult", "Segmenter", "Volume", "__version__", "segment"]

_HOMES = {
    "SegmentationResult": "result",
    "Segmenter": "segmenter",
    "Volume": "images_in_memory",
    "segment": "segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.inference.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
