"""Whether a finished model can teach on a data set: same channels by name, labels, grid and intensities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import ModelFolder, dataset_modalities

_INTENSITIES = "foreground_intensity_properties_per_channel"
# Schemes whose result depends on the training data's intensities, and on which of them.
_DATA_DEPENDENT = {"CTNormalization": ("mean", "std", "percentile_00_5", "percentile_99_5")}
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Described:
    """A model or a data set as far as JSON tells: what it sees, in which form, and what it segments.

    Attributes:
        dataset_json: of the data set.
        plans: the plans file.
        configuration: name of one of its configurations.
    """

    dataset_json: Mapping[str, Any]
    plans: Mapping[str, Any]
    configuration: str

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names in channel order."""
        return dataset_modalities(self.dataset_json)

    def __getitem__(self, key: str) -> Any:
        """An entry of the configuration, inherited ones included; ``None`` where there is none."""
        name: str | None = self.configuration
        while name is not None:
            entries = self.plans["configurations"][name]
            if key in entries:
                return entries[key]
            name = entries.get("inherits_from")
        return None

    def normalisation(self, modality: str) -> tuple[Any, ...]:
        """What preprocessing makes of a modality's intensities."""
        channel = self.modalities.index(modality)
        scheme = self["normalization_schemes"][channel]
        masks = self["use_mask_for_norm"] or [False] * len(self.modalities)
        described = self.plans.get(_INTENSITIES, {}).get(str(channel), {})
        values = (round(float(described.get(key, np.nan)), 3) for key in _DATA_DEPENDENT.get(scheme, ()))
        return scheme, "inside the mask" if masks[channel] else "everywhere", *values


# What has to agree beside names and intensities.
_GEOMETRY: dict[str, Callable[[Described], Any]] = {
    "number of axes is": lambda owner: len(owner["patch_size"]),
    "spacing in mm is": lambda owner: [float(mm) for mm in owner["spacing"]],
    "axis order is": lambda owner: owner.plans["transpose_forward"],
    "previous stage is": lambda owner: owner["previous_stage"],
    "preprocessor is": lambda owner: owner["preprocessor_name"],
}


def check_teacher(teacher: Described, student: Described, name: str, role: str = "teacher") -> None:
    """Refuse a teacher, or a model to go on from, that was made for other data.

    Args:
        teacher: the finished model.
        student: the data set and the configuration to train.
        name: of the teacher, for the message.
        role: what it is there for, for the message.

    Raises:
        MSTKDError: the first thing that differs, with both values.
    """
    for what, theirs, ours in _differences(teacher, student):
        raise MSTKDError(
            f"{role} {name} does not fit: its {what} {theirs}, here {ours};"
            " choose a model that was trained on data like this, or plan with its values"
        )


def channel_order(teacher: Sequence[str], student: Sequence[str]) -> tuple[int, ...]:
    """For each channel of the teacher, the student's channel of the same name."""
    return tuple(student.index(name) for name in teacher)


def _differences(teacher: Described, student: Described) -> Iterator[tuple[str, Any, Any]]:
    if sorted(teacher.modalities) != sorted(student.modalities):
        yield "modalities are", ", ".join(teacher.modalities), ", ".join(student.modalities)
    for key in ("labels", "regions_class_order"):
        theirs, ours = teacher.dataset_json.get(key), student.dataset_json.get(key)
        # Heads are in the order in which dataset.json lists the labels, not only of the same names.
        if theirs != ours or (
            isinstance(theirs, Mapping) and ours is not None and list(theirs) != list(ours)
        ):
            yield f"{key} are", theirs, ours
    for what, of in _GEOMETRY.items():
        theirs, ours = of(teacher), of(student)
        close = what == "spacing in mm is" and len(theirs) == len(ours)
        if not (np.allclose(theirs, ours, rtol=_TOLERANCE) if close else theirs == ours):
            yield what, theirs, ours
    for modality in student.modalities:
        theirs, ours = (" ".join(map(str, o.normalisation(modality))) for o in (teacher, student))
        if theirs != ours:
            yield f"normalisation of {modality} is", theirs, ours


def described(model: ModelFolder) -> Described:
    """A model folder as the fit looks at it."""
    return Described(model.dataset_json, model.plans, model.configuration)
