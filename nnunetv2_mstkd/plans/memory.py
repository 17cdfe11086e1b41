"""How much GPU memory a training needs, by counting feature maps: an estimate, not a measurement.

nnU-Net counts the elements (voxels × channels) of all convolution outputs of a patch
(``compute_conv_feature_map_size``) and knows from experience that 2 × 560e6 of them in 3D, 12 × 85e6 in 2D,
train within 8 GB with a PlainConvUNet. For nnU-Net's own networks this module keeps to that, and counts a
teacher only where the plans name one, so that a baseline is planned as nnU-Net plans it. MSTKDNet has fewer
feature maps and a second network beside it, so for it the 8 GB are taken apart::

    bytes = weights(student, teacher)                                    once
          + elements × SAVED × OVERHEAD × (2 if the teacher trains too)  per patch
          + logits × LOGIT_LOSSES + attention × ATTENTION_LOSSES         per patch

* ``SAVED``: bytes that autograd keeps per counted element under 16-bit autocast, measured with
  ``saved_tensors_hooks`` on CPU: PlainConvUNet 3.9, MSTKDNet 4.1 (the attention taps included).
* ``OVERHEAD``: what nnU-Net's 8 GB hold per saved byte (gradients on their way, workspaces of convolutions,
  fragmentation, the segmentation loss). With the reference networks' weights at 14 bytes (31.2 and 46.3
  million, SGD with momentum, 16-bit copy), (8 GB - weights) / (elements × 3.9) is 1.7 in 3D and 1.8 in 2D.
* The warm-start teacher is frozen and runs under ``no_grad`` before the student: its weights stay, its
  feature maps are gone by the time the student's exist, its outputs count with the losses. A finished model
  as the teacher is counted as if it had the student's weights. A joint teacher is a second student; a shared
  one has no weights of its own, and its feature maps are gone before the student's too; a nested one is part
  of the student's batch.
* ``LOGIT_LOSSES``: consistency and KL work in 32 bits at full resolution. Per logit they save 32 bytes
  (measured likewise, region heads), the teacher's logits take 4, gradients and temporaries an assumed 12.
* A trainer with a network of its own (``plan --trainer``) is counted by what autograd keeps of a pass with
  all outputs that training uses, on fake tensors, times ``OVERHEAD``; every segmentation at full resolution
  costs ``LOGIT_LOSSES``, a joint teacher is a second network. Discriminators are not counted.
* ``ATTENTION_LOSSES``: per element of the tapped attention matrices, 23 bytes saved (measured likewise) and
  the teacher's own 4. It only matters with thousands of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.plans.architecture import build_on_meta
from nnunetv2_mstkd.plans.options import PlanOptions
from nnunetv2_mstkd.settings import JOINT, NESTED, SETTINGS_KEY, SHARED, WARM_START, teacher_of

GIGABYTE = 1e9

_OVERHEAD = 1.8
# The official preset's GroupNorm runs in 32 bits under CUDA's autocast: it keeps a 32-bit input and output
# beside the 16-bit input of the next convolution, 10 bytes where InstanceNorm keeps 4. By PyTorch's list of
# autocast operations, not measured.
_SAVED_BYTES = {"nnunet": 4.1, "official": 10.0}
_LOGIT_LOSSES_BYTES = 32 + 4 + 12
_ATTENTION_LOSSES_BYTES = 23 + 4
# Weight, gradient, two moments of Adam(W), 16-bit copy.
_TRAINED_BYTES = 4 + 4 + 8 + 2
_FROZEN_BYTES = 4 + 2
# Teachers without weights of their own.
_ONE_NETWORK = (SHARED, NESTED)
# Now and then the trainer holds the gradients of two terms at once to compare them.
_GRADIENT_CHECK_BYTES = 2 * 4


@dataclass(frozen=True)
class Memory:
    """Memory of a training as a straight line over the batch size.

    Attributes:
        fixed_bytes: weights, gradients and optimizer states.
        per_patch_bytes: for each patch of the batch.
        rounds: take the nearest number of fitting patches as nnU-Net does; otherwise all must fit entirely.
    """

    fixed_bytes: float
    per_patch_bytes: float
    rounds: bool = False

    def total_bytes(self, batch_size: int) -> float:
        """For a whole batch."""
        return self.fixed_bytes + batch_size * self.per_patch_bytes

    def share_of_patch(self, target_bytes: float) -> float:
        """Part of the memory left by the fixed part that one patch takes; infinite if nothing is left."""
        left = target_bytes - self.fixed_bytes
        return self.per_patch_bytes / left if left > 0 else float("inf")

    def patches_within(self, target_bytes: float) -> int:
        """Batch size that fits, 0 if not even one patch does."""
        patches = 1 / self.share_of_patch(target_bytes)
        return round(patches) if self.rounds else int(patches)


def estimate_memory(
    architecture: Mapping[str, Any],
    patch_size: Sequence[int],
    channels: int,
    outputs: int,
    options: PlanOptions,
    *,
    nnunet_bytes: float,
) -> Memory:
    """Memory of training the network that ``architecture`` (an entry of a plans file) names.

    Args:
        architecture: of MSTKDNet or of a network of nnU-Net.
        patch_size: voxels per axis.
        channels: of the input.
        outputs: of the network.
        options: network, preset and the ``teacher`` setting.
        nnunet_bytes: bytes per counted element by the reference of nnU-Net's planner, everything included;
            for nnU-Net's own networks.
    """
    patch = tuple(map(int, patch_size))
    if options.method is not None:
        return _of_method(options, architecture, patch, channels, outputs)
    counts = _count(json.dumps(architecture, default=int), patch, channels, outputs)
    joint = trains_teacher(options)
    losses = prod(patch) * outputs * _LOGIT_LOSSES_BYTES + counts.attention * _ATTENTION_LOSSES_BYTES
    if options.network == "plans":
        features = counts.elements * nnunet_bytes  # weights included, also a joint teacher's
        if "teacher" not in options.settings:
            return Memory(0.0, features, rounds=True)
        frozen = 0 if joint or _teacher(options) in _ONE_NETWORK else _FROZEN_BYTES
        return Memory(float(counts.weights * frozen), features * (2 if joint else 1) + losses)
    teacher = 0 if _teacher(options) in _ONE_NETWORK else _TRAINED_BYTES if joint else _FROZEN_BYTES
    per_weight = _TRAINED_BYTES + _GRADIENT_CHECK_BYTES + teacher
    features = counts.elements * _SAVED_BYTES[options.preset] * _OVERHEAD * (2 if joint else 1)
    return Memory(float(counts.weights * per_weight), features + losses)


def _of_method(
    options: PlanOptions,
    architecture: Mapping[str, Any],
    patch: tuple[int, ...],
    channels: int,
    outputs: int,
) -> Memory:
    """Memory of training a trainer's own network in the place of ``architecture``, its teacher included."""
    stated = json.dumps([architecture, dict(options.settings)], default=int)
    saved = _saved(options.method, stated, patch, channels, outputs)
    networks = 1
    per_weight: float = _TRAINED_BYTES
    if "teacher" in options.method.needs():
        teacher = teacher_of(options.settings, options.method.teacher)
        networks = 2 if teacher == JOINT else 1
        per_weight += {JOINT: _TRAINED_BYTES, **dict.fromkeys(_ONE_NETWORK, 0)}.get(teacher, _FROZEN_BYTES)
    losses = prod(patch) * outputs * saved.segmentations * _LOGIT_LOSSES_BYTES
    features = saved.bytes * _OVERHEAD * networks
    return Memory(saved.weights * per_weight, features + losses * networks)


class _InFloat32AsOnCUDA(TorchFunctionMode):
    """CUDA's autocast runs these in 32 bits, the CPU's does not."""

    _listed = (F.group_norm, F.layer_norm, F.interpolate)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self._listed and torch.is_autocast_enabled("cpu"):
            args = [args[0].float(), *args[1:]]
        return func(*args, **(kwargs or {}))


class _Saved(NamedTuple):
    weights: int
    bytes: int
    segmentations: int


@lru_cache(maxsize=256)
def _saved(trainer: Any, stated: str, patch: tuple[int, ...], channels: int, outputs: int) -> _Saved:
    """What autograd keeps of a pass with all outputs that training uses, under CUDA's 16-bit autocast.

    On fake tensors, which have sizes and no content. Weights and their 16-bit copies are not in it.
    """
    architecture, settings = json.loads(stated)
    configuration = ConfigurationManager(
        {"patch_size": list(patch), "architecture": architecture, SETTINGS_KEY: settings}
    )
    with torch.device("meta"):
        network = trainer.build_network_architecture(None, configuration, channels, outputs, False).train()
    kept: dict[int, int] = {}
    with FakeTensorMode():
        tensors = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
            for name, tensor in chain(network.named_parameters(), network.named_buffers())
        }
        weights = {tensor.untyped_storage()._cdata: tensor.numel() for tensor in tensors.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        x, everything = torch.empty(1, channels, *patch), {"return_taps": True}
        hooks = saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16), _InFloat32AsOnCUDA():
            taps = torch.func.functional_call(network, tensors, (x,), everything, tie_weights=False)
    full = [t for t in taps.tensors() if tuple(t.shape[2:]) == patch]
    copies = 2 * sum(weights.values())
    return _Saved(sum(weights.values()), max(sum(kept.values()) - copies, 0), len(full))


def trains_teacher(options: PlanOptions) -> bool:
    """Whether the teacher is a second trained network: as set, else as the preset's trainer has it."""
    return _teacher(options) == JOINT


def _teacher(options: PlanOptions) -> str:
    return teacher_of(options.settings, JOINT if options.preset == "official" else WARM_START)


class _Counts(NamedTuple):
    weights: int
    elements: int
    attention: int


# Looking for 3d_lowres, nnU-Net asks for the same network again and again.
@lru_cache(maxsize=256)
def _count(architecture: str, patch_size: tuple[int, ...], channels: int, outputs: int) -> _Counts:
    """Weights, feature-map elements and tapped attention elements of a network given as JSON."""
    network: Any = build_on_meta(json.loads(architecture), channels, outputs)
    attention = 0
    if isinstance(network, MSTKDNet):
        attention = network.attention_matrices * prod(network.token_grid) ** 2
    weights = sum(p.numel() for p in network.parameters())
    return _Counts(weights, int(network.compute_conv_feature_map_size(patch_size)), attention)
