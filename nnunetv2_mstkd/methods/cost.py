"""What a method costs beside nnU-Net's own network: counted on tensors without storage, not measured."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, with_taps
from nnunetv2_mstkd.settings import JOINT, SHARED

# What nnU-Net plans for four sequences of 1 mm, at the cube of 128 that the papers speak of.
PATCH = (128, 128, 128)
CHANNELS, OUTPUTS = 4, 3
_FEATURES = (32, 64, 128, 256, 320, 320)


@dataclass(frozen=True)
class Cost:
    """Of one trainer, for one patch (B = 1).

    Attributes:
        parameters: that take part in a prediction.
        prediction: multiply-adds of a prediction.
        step: multiply-adds of a training step under masking: passes and gradients of the network, with all
            outputs that training uses, and of its teacher. Losses and discriminators are not in it.
    """

    parameters: int
    prediction: int
    step: int


def count_cost(
    trainer: Any,
    configuration: ConfigurationManager | None = None,
    *,
    channels: int = CHANNELS,
    outputs: int = OUTPUTS,
) -> Cost:
    """Count what a trainer's network computes on a patch of the plans.

    Args:
        trainer: class of this plugin.
        configuration: of the plans, with the settings that the trainer reads; by default stock plans of
            nnU-Net for ``PATCH``.
        channels: modalities.
        outputs: heads.
    """
    configuration = configuration or _stock_configuration()
    with torch.device("meta"):
        network = with_taps(trainer.build_network_architecture(None, configuration, channels, outputs, False))
        x = torch.empty(1, channels, *configuration.patch_size)
    with torch.no_grad():
        prediction = _multiply_adds(network, x, False)
    needs = trainer.needs()
    # Nothing but a distillation or further segmentations asks a network for more than its logits.
    request = len([name for name, weight in trainer.weights_by_default().items() if weight > 0]) > 1
    step = _multiply_adds(network, x, request)
    if "second pass" in needs:
        learns = "teacher" not in needs or trainer.teacher in (JOINT, SHARED)
        with nullcontext() if learns else torch.no_grad():
            step += _multiply_adds(network, x, request)
    trained = [p for p in network.parameters() if p.requires_grad]
    reached = torch.autograd.grad(network(x).sum(), trained, allow_unused=True)
    parameters = sum(gradient.numel() for gradient in reached if gradient is not None)
    return Cost(parameters, prediction, step)


def _multiply_adds(network: nn.Module, x: Tensor, request: Request) -> int:
    """Of a pass, and of its gradients where they are enabled."""
    with FlopCounterMode(display=False) as counter:
        output = network(x, return_taps=request)
        if torch.is_grad_enabled():
            taps = output if isinstance(output, NetworkTaps) else NetworkTaps(output)
            torch.stack([tensor.sum() for tensor in taps.tensors()]).sum().backward()
    return counter.get_total_flops() // 2  # a multiplication and an addition


def _stock_configuration() -> ConfigurationManager:
    stages = len(_FEATURES)
    network = {
        "n_stages": stages,
        "features_per_stage": list(_FEATURES),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return ConfigurationManager(
        {
            "patch_size": list(PATCH),
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": network,
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    )
