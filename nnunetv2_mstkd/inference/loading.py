"""Loading a trained model into nnU-Net's predictor, with errors that say what does not fit."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_mstkd.environment import activate
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.model_folder import Fold, ModelFolder

logger = logging.getLogger(__name__)


@contextmanager
def quiet(enabled: bool = True) -> Iterator[None]:
    """Keep prints and warnings of nnU-Net and its libraries from the user.

    It changes the whole process: use it in the main thread.
    """
    if not enabled:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def checked_device(name: str) -> torch.device:
    """The torch device ``cpu``, ``cuda`` or ``mps``.

    Raises:
        MSTKDError: this machine, or this installation of torch, has no such device.
    """
    available = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if name not in available:
        raise MSTKDError(f"unknown device '{name}'; use one of {', '.join(available)}")
    if not available[name]():
        raise MSTKDError(f"device '{name}' is not available here; use -device cpu")
    return torch.device(name)


def load_nnunet_predictor(
    model: ModelFolder, folds: Sequence[Fold], checkpoint_name: str, *, device: str, **options: Any
) -> nnUNetPredictor:
    """nnU-Net's predictor with the model's weights in it.

    Args:
        folds: each must have the checkpoint, see :meth:`ModelFolder.folds`.
        options: arguments of ``nnUNetPredictor``.

    Raises:
        MSTKDError: no such device; a checkpoint cannot be read; trainer, plans, data set and weights do not
            belong together.
    """
    activate()
    with quiet(not options.get("verbose")):
        predictor = nnUNetPredictor(device=checked_device(device), **options)
        try:
            predictor.initialize_from_trained_model_folder(str(model.path), tuple(folds), checkpoint_name)
            _check_fit(predictor, model, folds)
        except MSTKDError:
            raise
        # Whatever is wrong in a model folder ends here: nnU-Net and pickle raise every kind of exception.
        except Exception as error:
            logger.debug("loading %s", model.path, exc_info=True)
            raise MSTKDError(f"cannot load the model in {model.path}: {_reason(error, model)}") from error
    return predictor


def trained_for_missing(predictor: nnUNetPredictor) -> bool:
    """Whether the model's trainer showed it cases without some of their modalities."""
    with quiet():
        trainer = recursive_find_trainer_class_by_name(predictor.trainer_name)
    return bool(getattr(trainer, "handles_missing_modalities", False))


def _check_fit(predictor: nnUNetPredictor, model: ModelFolder, folds: Sequence[Fold]) -> None:
    """What nnU-Net would only notice at the first case: further folds, and the normalisation of channels."""
    normalised = len(predictor.configuration_manager.normalization_schemes)
    if normalised != len(model.modalities):
        raise MSTKDError(
            f"{model.path}: plans.json is for {normalised} channels, dataset.json names"
            f" {_channels(model)}; they belong to different data sets"
        )
    first, *others = (
        {name: tuple(weight.shape) for name, weight in weights.items()}
        for weights in predictor.list_of_parameters
    )
    for fold, shapes in zip(folds[1:], others, strict=True):
        if shapes != first:
            raise MSTKDError(f"{model.path}: folds {folds[0]} and {fold} hold different networks")


def _reason(error: Exception, model: ModelFolder) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "loading state_dict" in lines[0]:
        detail = lines[1] if len(lines) > 1 else lines[0]
        return f"its weights do not fit the network of plans.json for {_channels(model)} ({detail})"
    if isinstance(error, KeyError):
        return f"a checkpoint or plans.json has no {lines[0]}"
    return lines[0]


def _channels(model: ModelFolder) -> str:
    return f"{len(model.modalities)} channels {', '.join(model.modalities)}"
