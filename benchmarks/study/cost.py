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

# MSTKDNet as the plans of the study describe it, trained on its labels alone: its step is the unit.
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
    settings: Mapping[str, Any], unit: dict[str, Any] | None = None,
) -> float:  # fmt: skip
    """A step of a method, in student steps; nothing is computed.

    Args:
        trainer_name: of this package.
        plans, configuration_name: whose patch and network.
        dataset: content of dataset.json.
        settings: of the method, in the place of those that the plans hold.
        unit: plans of the student's network; by default the same as ``plans``.
    """
    steps = []
    for name, described, given in (
        (trainer_name, plans, dict(settings)),
        (_STUDENT, plans if unit is None else unit, {}),
    ):
        described = deepcopy(described)
        described["configurations"][configuration_name][SETTINGS_KEY] = given
        manager = PlansManager(described)
        channels, heads = _channels_and_heads(manager, dataset)
        configuration = manager.get_configuration(configuration_name)
        trainer = getattr(methods, name)
        steps.append(count_cost(trainer, configuration, channels=channels, outputs=heads).step)
    return steps[0] / steps[1]


def _channels_and_heads(plans: PlansManager, dataset: dict[str, Any]) -> tuple[int, int]:
    return len(dataset["channel_names"]), plans.get_label_manager(dataset).num_segmentation_heads
