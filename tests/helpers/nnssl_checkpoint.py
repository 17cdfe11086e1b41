"""A tiny checkpoint in the form of nnssl's pre-trained networks, made from its description.

The names and entries are those of ../shared/peers/pretrained.md; no file of theirs is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

# Two stages; the pre-trained network has one channel and one output.
ARGUMENTS: dict[str, Any] = {
    "n_stages": 2,
    "features_per_stage": [4, 8],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_blocks_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
_CLASSES = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
STEM = "encoder.stem.convs.0"


def adaptation_plan(**changes: Any) -> dict[str, Any]:
    return {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": ARGUMENTS,
            "arch_kwargs_requiring_import": ["conv_op", "norm_op", "nonlin"],
        },
        "pretrain_plan": {"dataset_name": "Dataset745_OpenNeuro_v2", "configurations": {}},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [16, 16, 16],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": [f"{STEM}.conv", f"{STEM}.all_modules.0"],
        "key_to_lpe": None,
    } | changes


def pretrained_network() -> ResidualEncoderUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return ResidualEncoderUNet(
            input_channels=1, num_classes=1, deep_supervision=False, **(ARGUMENTS | _CLASSES)
        )


def sparse(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As sparse pre-training leaves it: ``conv`` and ``norm`` are copies that nothing has trained."""
    return {
        name: torch.zeros_like(tensor) if ".all_modules." not in name and _twice(name) else tensor
        for name, tensor in weights.items()
    }


def _twice(name: str) -> bool:
    return name.split(".")[-2] in ("conv", "norm")


def encoder_alone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As contrastive pre-training leaves it: no decoder, a projection."""
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    return kept | {"projector.layer1.0.weight": torch.zeros(2, 8)}


def write_checkpoint(file: Path, weights: dict[str, Tensor] | None = None, **plan: Any) -> Path:
    content = {
        "network_weights": pretrained_network().state_dict() if weights is None else weights,
        "trainer_name": "BaseMAETrainer",
        "init_args": {},
        "citations": [],
        "nnssl_adaptation_plan": adaptation_plan(**plan),
    }
    torch.save(content, file)
    return file
