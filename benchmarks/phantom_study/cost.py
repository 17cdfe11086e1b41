"""Multiply-adds of a model's forward pass, counted from its plans."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

import nnunetv2_mstkd.trainers as trainers
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.files import read_json


def forward_flops(model: Path) -> int:
    """Of one batch of the plans, in a model folder ``TRAINER__PLANS__CONFIGURATION``; nothing is computed."""
    trainer_name, _, configuration_name = model.name.split("__")
    trainer = getattr(trainers, trainer_name, nnUNetTrainer)
    plans = PlansManager(os.fspath(model / "plans.json"))
    configuration = plans.get_configuration(configuration_name)
    dataset = read_json(model / "dataset.json")
    channels, heads = len(dataset["channel_names"]), plans.get_label_manager(dataset).num_segmentation_heads
    shape = (configuration.batch_size, channels, *configuration.patch_size)
    with torch.device("meta"):
        network = trainer.build_network_architecture(plans, configuration, channels, heads, True)
    with FlopCounterMode(display=False) as counter:
        run_on_meta(network, shape)
    return counter.get_total_flops()
