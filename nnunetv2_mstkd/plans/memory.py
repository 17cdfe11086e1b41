"""How much GPU memory a training needs, by counting: an estimate, not a measurement.

nnU-Net counts the voxels × channels of all convolution outputs (``compute_conv_feature_map_size``) and knows
from experience that 2 × 560e6 of them (3D; 12 × 85e6 in 2D) train within 8 GB. For nnU-Net's own networks
this module does the same. For MSTKDNet it splits the 8 GB, because the two networks' fixed parts differ::

    bytes = student weights × (4 + 4 + optimizer) + teacher weights × 4      once
          + student features × BYTES_PER_FEATURE                             per patch
          + logits × LOSS_BYTES_PER_LOGIT                                    per patch

* The student keeps every feature map for the backward pass. ``BYTES_PER_FEATURE`` is what autograd saves
  under 16-bit autocast per counted voxel × channel (measured on CPU with ``saved_tensors_hooks``; the numbers
  are below), times ``OVERHEAD``: the part of nnU-Net's 8 GB that its own counted, saved and fixed bytes do
  not explain (gradients in flight, convolution workspaces, fragmentation).
* The warm-start teacher is frozen and runs under ``no_grad``: its weights stay, its feature maps are freed
  layer by layer before the student's exist. What it leaves behind are its outputs for the losses, counted
  with the losses. A joint teacher is a second student: everything twice.
* The losses between full-resolution logits work in 32 bits on logits of both networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2_mstkd.plans.architecture import build_on_meta
from nnunetv2_mstkd.plans.options import PlanOptions

GIGABYTE = 1e9


@dataclass(frozen=True)
class Memory:
    """Memory of a training as a straight line over the batch size.

    Attributes:
        fixed_bytes: weights, gradients and optimizer states.
        per_patch_bytes: for each patch of the batch.
        rounds_up: nnU-Net rounds the number of fitting patches; otherwise they must fit entirely.
    """

    fixed_bytes: float
    per_patch_bytes: float
    rounds_up: bool = False

    def total_bytes(self, batch_size: int) -> float:
        """For a whole batch."""
        return self.fixed_bytes + batch_size * self.per_patch_bytes

    def share_of_patch(self, target_bytes: float) -> float:
        """Part of the memory left by the fixed part that one patch takes; infinite if nothing is left."""
        left = target_bytes - self.fixed_bytes
        return self.per_patch_bytes / left if left > 0 else float("inf")

    def patches_within(self, target_bytes: float) -> int:
        """Batch size that fits, 0 if not even one patch does."""
        share = self.share_of_patch(target_bytes)
        return round(1 / share) if self.rounds_up else int(1 / share)


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
        nnunet_bytes: bytes per counted voxel × channel by the reference of nnU-Net's planner, everything
            included; for nnU-Net's own networks.
    """
    network = build_on_meta(architecture, channels, outputs)
    features = float(network.compute_conv_feature_map_size([int(n) for n in patch_size]))
    if options.network == "plans":
        return Memory(0.0, features * nnunet_bytes, rounds_up=True)
    raise NotImplementedError
