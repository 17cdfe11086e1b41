"""Planning for a student of a finished model: its configuration, spacing and patch, unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.model_folder import FINAL_CHECKPOINT, Fold, ModelFolder, open_model_folder
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.plans.teacher_fit import Described, check_teacher
from nnunetv2_mstkd.plans.teacher_network import template_of
from nnunetv2_mstkd.settings import TEACHERS


def with_teacher(
    options: PlanOptions,
    folder: Path,
    fold: Fold | None = None,
    checkpoint: str | None = None,
    *,
    any_preset: bool = True,
) -> PlanOptions:
    """Options that name a model as the teacher and keep to its configuration, patch size and network.

    Args:
        options: what the user chose wins.
        folder: of the finished model.
        fold: of the model; by default each student takes the teacher's fold of its own number.
        checkpoint: of that fold; by default checkpoint_final.pth.
        any_preset: a teacher of MSTKDNet may bring the preset; otherwise that of ``options`` was chosen.

    Raises:
        MSTKDError: no such model, fold or checkpoint; or the settings name another one.
    """
    model = open_model_folder(folder)
    remedy = "choose with --teacher-fold and --teacher-checkpoint"
    model.folds(None if fold is None else (fold,), checkpoint or FINAL_CHECKPOINT, remedy)
    named = {"teacher": str(folder.resolve()), "teacher_fold": fold, "teacher_checkpoint": checkpoint}
    settings: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    twice = [key for key in settings if key in options.settings]
    if twice:
        raise MSTKDError(f"--teacher and --set {twice[0]}=... both name a teacher; leave one out")
    options = replace(options, settings={**settings, **options.settings})
    own = (model.configuration,)
    if options.configurations not in ((), own):
        return options
    template = template_of(model, options)
    preset = options.preset
    if template is not None and options.network == "mstkdnet":
        theirs = template.architecture["arch_kwargs"]["preset"]
        if any_preset:
            preset = theirs
        elif theirs != preset:
            template = None
    patch = tuple(described(model)["patch_size"])
    return replace(
        options,
        configurations=own,
        patch_size=options.patch_size or patch,
        preset=preset,
        template=template,
    )


def spacing_of(options: PlanOptions) -> tuple[float, ...] | None:
    """The teacher's spacing in mm, axis order of the images, if one can be planned with it."""
    model = _teacher(options.settings)
    if model is None or "3d_fullres" not in (model.configuration, described(model)["inherits_from"]):
        return None
    spacing = np.take(described(model)["spacing"], model.plans["transpose_backward"])
    return tuple(float(mm) for mm in spacing)


def check_planned(
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    configurations: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Refuse plans for which the teacher that the settings name was not made.

    Raises:
        MSTKDError: see :func:`check_teacher`.
    """
    model = _teacher(settings)
    if model is not None:
        for name in configurations:
            check_teacher(described(model), Described(dataset_json, plans, name), model.path.name)


def described(model: ModelFolder) -> Described:
    """A model folder as the fit looks at it."""
    return Described(model.dataset_json, model.plans, model.configuration)


def _teacher(settings: Mapping[str, Any]) -> ModelFolder | None:
    teacher = settings.get("teacher", TEACHERS[0])
    if teacher in TEACHERS:
        return None
    if not isinstance(teacher, str):
        raise MSTKDError(f"teacher {teacher!r} is not the name of a folder")
    return open_model_folder(Path(teacher))
