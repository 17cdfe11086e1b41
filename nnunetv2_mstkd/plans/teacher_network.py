"""The network of a finished model: whether a student can have the same one, and what else transfers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_mstkd.architectures.from_plans import CLASS_KWARGS
from nnunetv2_mstkd.architectures.matching import matching, share
from nnunetv2_mstkd.architectures.mstkdnet import MSTKDNet
from nnunetv2_mstkd.environment import activate
from nnunetv2_mstkd.inference.loading import build_network, quiet, trainer_class
from nnunetv2_mstkd.inference.model_folder import ModelFolder, open_model_folder
from nnunetv2_mstkd.plans.architecture import MSTKDNET, build_on_meta
from nnunetv2_mstkd.plans.options import PlanOptions, Template
from nnunetv2_mstkd.settings import SETTINGS_KEY, TEACHERS

_log = logging.getLogger(__name__)
_UNETS = (PlainConvUNet, ResidualEncoderUNet, ResidualUNet)
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
        if architecture["network_class_name"] != MSTKDNET:  # trained on stock plans
            kwargs = trainer_class(_trainer(model)).network_kwargs(configuration)
            architecture = {
                "network_class_name": MSTKDNET,
                "arch_kwargs": kwargs,
                "_kw_requires_import": list(CLASS_KWARGS),
            }
    elif not isinstance(network, _UNETS) or not isinstance(network, _class_of(architecture)):
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
        teacher = settings.get("teacher", TEACHERS[0])
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
