"""Planning for a student of a finished model: its configuration, spacing and patch, unless told otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_mstkd.architectures.matching import matching, share
from nnunetv2_mstkd.architectures.taps import UNETS
from nnunetv2_mstkd.environment import (
    activate,
    quiet,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS, MSTKDNet
from nnunetv2_mstkd.methods.mstkd.sizes import CLASS_KWARGS
from nnunetv2_mstkd.models.building import (
    build_network,
    trainer_class,
)
from nnunetv2_mstkd.models.fit import Described, check_teacher, described
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold, ModelFolder, open_model_folder
from nnunetv2_mstkd.models.starting_weights import model_folder_of
from nnunetv2_mstkd.plans.architecture import build_on_meta
from nnunetv2_mstkd.plans.options import PlanOptions, Template
from nnunetv2_mstkd.settings import SETTINGS_KEY, TEACHERS, teacher_of


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
    return like_model(options, model, any_preset=any_preset)


def like_model(options: PlanOptions, model: ModelFolder, *, any_preset: bool = True) -> PlanOptions:
    """Options that keep to a model's configuration, patch size and network; what the user chose wins."""
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
    """Spacing in mm, axis order of the images, of the teacher, else of the model that gives the weights.

    ``None`` where there is neither, or nothing can be planned with it.
    """
    model, init = _teacher(options.settings), options.settings.get("init")
    if model is None and init is not None:
        folder = Path(init) if Path(init).is_dir() else model_folder_of(Path(init))
        model = None if folder is None else open_model_folder(folder)
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


def _teacher(settings: Mapping[str, Any]) -> ModelFolder | None:
    teacher = teacher_of(settings)
    if teacher in TEACHERS:
        return None
    return open_model_folder(Path(teacher))


_log = logging.getLogger(__name__)
_SIZES = ("base_features", "max_features", "max_stages", "token_patch")


def template_of(model: ModelFolder, options: PlanOptions) -> Template | None:
    """The model's network for a student, where it is of the kind that ``options`` ask for.

    ``None`` also where the user chose a size of the network, or where the network cannot be built here.
    """
    network = network_of(model)
    if network is None or any(getattr(options, size) is not None for size in _SIZES):
        return None
    configuration = PlansManager(dict(model.plans)).get_configuration(model.configuration)
    architecture = configuration.configuration["architecture"]
    if isinstance(network, MSTKDNet):
        if architecture["network_class_name"] != NETWORK_CLASS:  # trained on stock plans
            kwargs = trainer_class(_trainer(model)).network_kwargs(configuration)
            architecture = {
                "network_class_name": NETWORK_CLASS,
                "arch_kwargs": kwargs,
                "_kw_requires_import": list(CLASS_KWARGS),
            }
    elif not isinstance(network, UNETS) or not isinstance(network, _class_of(architecture)):
        return None
    if isinstance(network, MSTKDNet) != (options.network == "mstkdnet"):
        return None
    return Template(architecture, tuple(configuration.patch_size), configuration.batch_size)


def _class_of(architecture: Mapping[str, Any]) -> type:
    found = locate(architecture["network_class_name"])
    return found if isinstance(found, type) else type(None)


def _trainer(model: ModelFolder) -> str:
    return model.path.resolve().name.split("__")[0]


def network_of(model: ModelFolder) -> nn.Module | None:
    """The network as its trainer (first part of the folder's name) builds it, on the meta device.

    ``None`` where that trainer is not installed here, or fails.
    """
    activate()
    plans, dataset_json = PlansManager(dict(model.plans)), dict(model.dataset_json)
    try:
        with quiet(), torch.device("meta"):
            configuration = plans.get_configuration(model.configuration)
            return build_network(_trainer(model), plans, configuration, dataset_json)
    except Exception:  # whatever a foreign trainer raises; the training itself will say what is wrong
        _log.debug("the network of %s", model.path, exc_info=True)
        return None


def describe_transfer(
    plans: Mapping[str, Any], dataset_json: Mapping[str, Any], configurations: Sequence[str]
) -> Iterator[str]:
    """For each configuration with a model as its teacher: what of it the student will start from."""
    manager = PlansManager(dict(plans))
    for name in configurations:
        configuration = manager.get_configuration(name)
        settings = configuration.configuration.get(SETTINGS_KEY, {})
        teacher = teacher_of(settings)
        if teacher in TEACHERS or settings.get("init_from_teacher") is False:
            continue
        theirs = network_of(open_model_folder(Path(teacher)))
        if theirs is None:
            yield f"{name}: the teacher's network cannot be built here, so nothing is known of its weights"
            continue
        heads = manager.get_label_manager(dataset_json).num_segmentation_heads
        channels = determine_num_input_channels(manager, configuration, dataset_json)
        ours = build_on_meta(configuration.configuration["architecture"], channels, heads)
        part = share(ours, matching(ours, theirs))
        kinds = [type(n).__name__.removesuffix("WithTaps") for n in (theirs, ours)]
        if kinds[0] != kinds[1]:
            yield (
                f"{name}: the teacher's network is of another kind ({kinds[0]}, the student's is {kinds[1]}):"
                f" {part:.0%} of its weights transfer"
            )
        else:
            yield f"{name}: {part:.0%} of the student's weights ({kinds[1]}) start from the teacher's"
