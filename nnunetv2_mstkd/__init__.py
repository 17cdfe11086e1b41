"""nnU-Net for incomplete MRI: MST-KDNet distillation beside an untouched nnunetv2.

The names below are this package's Python interface (docs/api.md). They are imported when first used, so
``import nnunetv2_mstkd`` needs neither torch nor SimpleITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.version import __version__

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
    from nnunetv2_mstkd.evaluation.report.run import ComparisonRequest, compare
    from nnunetv2_mstkd.evaluation.scoring.request import EvaluationRequest
    from nnunetv2_mstkd.evaluation.scoring.run import Evaluated, evaluate
    from nnunetv2_mstkd.inference.images_in_memory import Volume
    from nnunetv2_mstkd.inference.result import SegmentationResult
    from nnunetv2_mstkd.inference.segmenter import Segmenter, segment

__all__ = [
    "Comparison",
    "ComparisonRequest",
    "Evaluated",
    "EvaluationRequest",
    "MSTKDError",
    "SegmentationResult",
    "Segmenter",
    "Volume",
    "__version__",
    "compare",
    "evaluate",
    "segment",
]

_HOMES = {
    "Comparison": "evaluation.comparison.runs",
    "ComparisonRequest": "evaluation.report.run",
    "Evaluated": "evaluation.scoring.run",
    "EvaluationRequest": "evaluation.scoring.request",
    "SegmentationResult": "inference.result",
    "Segmenter": "inference.segmenter",
    "Volume": "inference.images_in_memory",
    "compare": "evaluation.report.run",
    "evaluate": "evaluation.scoring.run",
    "segment": "inference.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
