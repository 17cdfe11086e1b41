"""Multiply-adds of a model's forward pass and of a method's training step, counted from plans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.methods.cost import count_cost
from nnunetv2_mstkd.settings import SETTINGS_KEY

# The network of these plans, trained on its labels alone: its step is the unit.
_STUDENT = "nnUNetTrainerModalityDropout"


def forward_flops(model: Path) -> int:
    """Of one batch of the plans, in a model folder ``TRAINER__PLANS__CONFIGURATION``; nothing is computed."""
    trainer_name, _, configuration_name = model.name.split("__")
    trainer = getattr(methods, trainer_name, nnUNetTrainer)
    plans = PlansManager(os.fspath(model / "plans.json"))
    configuration = plans.get_configuration(configuration_name)
    channels, heads = _channels_and_heads(plans, read_json(model / "dataset.json"))
    shape = (configuration.batch_size, channels, *configuration.patch_size)
    with torch.device("meta"):
        network = trainer.build_network_architecture(plans, configuration, channels, heads, True)
    with FlopCounterMode(display=False) as counter:
        run_on_meta(network, shape)
    return counter.get_total_flops()


def step_cost(
    trainer_name: str, plans: dict[str, Any], configuration_name: str, dataset: dict[str, Any],
    settings: Mapping[str, Any],
) -> float:  # fmt: skip
    """A step of a method, in student steps of the network that the plans name; nothing is computed.

    Args:
        trainer_name: of this package.
        plans, configuration_name: whose patch and network.
        dataset: content of dataset.json.
        settings: of the method, in the place of those that the plans hold.
    """
    plans = deepcopy(plans)
    plans["configurations"][configuration_name][SETTINGS_KEY] = dict(settings)
    manager = PlansManager(plans)
    channels, heads = _channels_and_heads(manager, dataset)
    steps = [
        count_cost(
            getattr(methods, name), manager.get_configuration(configuration_name),
            channels=channels, outputs=heads,
        ).step
        for name in (trainer_name, _STUDENT)
    ]  # fmt: skip
    return steps[0] / steps[1]


def _channels_and_heads(plans: PlansManager, dataset: dict[str, Any]) -> tuple[int, int]:
    return len(dataset["channel_names"]), plans.get_label_manager(dataset).num_segmentation_heads
