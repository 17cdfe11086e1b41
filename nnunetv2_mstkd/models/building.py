"""The network that a trainer of a name builds."""

from __future__ import annotations

import inspect
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_mstkd.environment import EXTERNAL_TRAINERS, activate, external_trainer_paths


def build_network(
    trainer_name: str, plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any]
) -> nn.Module:
    """The network as the trainer that a checkpoint names would build it for inference."""
    build = trainer_class(trainer_name).build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        described: tuple[Any, ...] = (plans, configuration)
    else:  # trainers written before nnU-Net 2.8
        described = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    inputs = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    return build(*described, inputs, outputs, enable_deep_supervision=False)


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """The class that nnU-Net's search finds for a trainer's name; this plugin's without the search.

    The search imports every trainer of nnU-Net before it looks elsewhere, and with them whole libraries of
    networks (timm): seconds before the first image is read. Folders of the user's own come before this
    plugin's, so with such a folder the search decides.

    Raises:
        RuntimeError: there is none.
    """
    activate()
    if external_trainer_paths() == str(EXTERNAL_TRAINERS):
        ours = _own_trainer(name)
        if ours is not None:
            return ours
    return recursive_find_trainer_class_by_name(name)


def _own_trainer(name: str) -> type[nnUNetTrainer] | None:
    """This plugin's trainer of that name, found by folder as nnU-Net does: this room knows no method."""
    folder = str(EXTERNAL_TRAINERS)
    if name == nnUNetTrainer.__name__:
        return None
    return recursive_find_python_class(
        folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True
    )
