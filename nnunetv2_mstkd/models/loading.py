"""Loading a trained model into nnU-Net's predictor, with errors that say what does not fit.

The predictor is filled here rather than by nnU-Net's ``initialize_from_trained_model_folder``, which reads
checkpoints in a way that runs whatever code they hold.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_mstkd.engines import OPENVINO, TORCH, check_engine
from nnunetv2_mstkd.environment import activate, quiet
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.building import build_network, trainer_class
from nnunetv2_mstkd.models.checkpoint_files import safe_load
from nnunetv2_mstkd.models.folder import Fold, ModelFolder
from nnunetv2_mstkd.models.window_batches import BatchingPredictor

logger = logging.getLogger(__name__)


def checked_device(name: str | torch.device) -> torch.device:
    """The torch device ``cpu``, ``cuda`` or ``mps``; ``cuda:1`` is the second GPU.

    Raises:
        MSTKDError: this machine, or this installation of torch, has no such device.
    """
    number_of = {
        "cpu": lambda: 1,
        "cuda": lambda: torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": lambda: int(torch.backends.mps.is_available()),
    }
    try:
        device = torch.device(str(name))
    except RuntimeError:
        device = None
    if device is None or device.type not in number_of:
        raise MSTKDError(f"unknown device '{name}'; use one of {', '.join(number_of)}")
    number = number_of[device.type]()
    if number == 0:
        raise MSTKDError(f"device '{name}' is not available here; use -device cpu")
    if (device.index or 0) >= number:
        raise MSTKDError(f"device '{name}' is not there: this process sees {number} of the kind, from 0")
    return device


def load_nnunet_predictor(
    model: ModelFolder,
    folds: Sequence[Fold],
    checkpoint_name: str,
    *,
    device: str | torch.device,
    engine: str = TORCH,
    trust: bool = False,
    **options: Any,
) -> nnUNetPredictor:
    """nnU-Net's predictor with the model's weights in it.

    Args:
        folds: each must have the checkpoint, see :meth:`ModelFolder.folds`.
        engine: what runs the network, one of ``engines.ENGINES``.
        trust: read checkpoints that hold more than nnU-Net stores, see :func:`safe_load`.
        options: arguments of ``nnUNetPredictor``.

    Raises:
        MSTKDError: no such device or engine; a checkpoint cannot be read; trainer, plans, data set and
            weights do not belong together.
    """
    activate()
    place = checked_device(device)
    check_engine(engine, place)
    with quiet(not options.get("verbose")):
        predictor = BatchingPredictor(device=place, **options)
        try:
            _fill(predictor, model, _checkpoints(model, folds, checkpoint_name, trust))
            _check_fit(predictor, model, folds)
            if engine == OPENVINO:
                predictor.network = _for_openvino(predictor, model)
        except MSTKDError:
            raise
        # Whatever is wrong in a model folder ends here: nnU-Net raises every kind of exception.
        except Exception as error:
            logger.debug("loading %s", model.path, exc_info=True)
            raise MSTKDError(f"cannot load the model in {model.path}: {_reason(error, model)}") from error
    return predictor


def _checkpoints(model: ModelFolder, folds: Sequence[Fold], name: str, trust: bool) -> list[dict[str, Any]]:
    """What prediction needs of each fold's checkpoint; optimizers and teachers are let go one by one."""
    needed = ("trainer_name", "init_args", "network_weights")
    kept = (*needed, "inference_allowed_mirroring_axes")
    checkpoints = []
    for fold in folds:
        path = model.path / f"fold_{fold}" / name
        content = safe_load(path, trust=trust)
        missing = [key for key in needed if key not in content]
        if missing:
            raise MSTKDError(f"{path} has no '{missing[0]}'; it is not a checkpoint of nnU-Net's training")
        checkpoints.append({key: content[key] for key in kept if key in content})
    return checkpoints


def _fill(predictor: nnUNetPredictor, model: ModelFolder, checkpoints: Sequence[dict[str, Any]]) -> None:
    """What nnU-Net does with a model folder: the first checkpoint says which network it is."""
    first, dataset_json = checkpoints[0], dict(model.dataset_json)
    plans = PlansManager(dict(model.plans))
    configuration = plans.get_configuration(first["init_args"]["configuration"])
    network = build_network(first["trainer_name"], plans, configuration, dataset_json)
    network.load_state_dict(first["network_weights"])
    predictor.manual_initialization(
        network,
        plans,
        configuration,
        [checkpoint["network_weights"] for checkpoint in checkpoints],
        dataset_json,
        first["trainer_name"],
        first.get("inference_allowed_mirroring_axes"),
    )


def _for_openvino(predictor: nnUNetPredictor, model: ModelFolder) -> nn.Module:
    # Imported here, because it is an extra.
    from nnunetv2_mstkd.engines.openvino_network import OpenVINONetwork

    network = getattr(predictor.network, "_orig_mod", predictor.network)  # nnUNet_compile wraps it
    described = [predictor.trainer_name, dict(model.plans), dict(model.dataset_json)]
    return OpenVINONetwork(network, json.dumps(described), model.path.resolve().name)


def trained_for_missing(predictor: nnUNetPredictor) -> bool:
    """Whether the model's trainer showed it cases without some of their modalities."""
    with quiet():
        trainer = trainer_class(predictor.trainer_name)
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
