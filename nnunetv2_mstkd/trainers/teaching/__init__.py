"""The ways of having a teacher; one of them serves a training, by its ``teacher`` setting."""

from __future__ import annotations

from nnunetv2_mstkd.trainers.teaching.base import Passes, Teaching
from nnunetv2_mstkd.trainers.teaching.finished_model import FinishedModel
from nnunetv2_mstkd.trainers.teaching.own_teachers import Joint, Shared, WarmStart

_NAMED: dict[str, type[Teaching]] = {"warm_start": WarmStart, "joint": Joint, "shared": Shared}


def teaching_class(teacher: str) -> type[Teaching]:
    """The class for a ``teacher`` setting; what is no name is a model folder."""
    return _NAMED.get(teacher, FinishedModel)


__all__ = ["FinishedModel", "Passes", "Teaching", "teaching_class"]
