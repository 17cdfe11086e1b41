"""Modality masking: absent means exactly zero, after every other augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from torch import Tensor

from nnunetv2_mstkd.transforms.subset_samplers import SubsetSampler, UniformSampler

# In samples and batches: what the student sees, (C,) and (B, C) float.
MASK_KEY = "modality_mask"
# In samples, while they are transformed: what the case has, (C,).
AVAILABLE_KEY = "available_modalities"
# In batches, training and validation: what the case of each sample has, (B, C) bool.
BATCH_AVAILABLE_KEY = "modality_available"


def mask_modalities(image: Tensor, mask: Tensor) -> Tensor:
    """Zero the absent modalities of a batch or of one sample.

    Args:
        image: (B, C + extra, ...) with ``mask`` (B, C), or (C + extra, ...) with ``mask`` (C,). Channels
            beyond C (a cascade's one-hot segmentation) are never touched.
        mask: 1 (or True) for present, 0 for absent.

    Returns:
        A new tensor; absent channels are exactly zero whatever they held.
    """
    extra = image.shape[mask.ndim - 1] - mask.shape[-1]
    keep = mask.bool()
    if extra:
        keep = torch.cat((keep, keep.new_ones((*keep.shape[:-1], extra))), dim=-1)
    keep = keep.reshape(*keep.shape, *([1] * (image.ndim - keep.ndim)))
    return torch.where(keep, image, torch.zeros((), dtype=image.dtype, device=image.device))


class ModalityMaskingTransform(BasicTransform):
    """Draw the subset of modalities that a training patch keeps.

    The last transform of nnU-Net's training pipeline. It adds ``modality_mask`` (C,), float, to the sample.
    With ``apply_mask`` it also zeroes the absent channels of ``image``; without, the image stays whole for a
    teacher, and :func:`mask_modalities` makes the student's input from it on the device.

    Args:
        modalities: names in channel order; the first C channels of the image.
        sampler: draws the subset; uniform over all non-empty ones by default.
        apply_mask: zero the image here.

    Source: MST-KDNet's released training script draws one of the 15 non-empty subsets uniformly and
    multiplies absent channels by 0 (released train.py). Here each sample of a batch has its own draw.
    """

    def __init__(
        self, modalities: Sequence[str], sampler: SubsetSampler | None = None, apply_mask: bool = False
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.sampler = sampler or UniformSampler()
        self.apply_mask = apply_mask

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw the mask; a sample may carry ``available_modalities`` (C,) if its case lacks some."""
        available = data_dict.get(AVAILABLE_KEY)
        if available is None:
            available = np.ones(len(self.modalities), dtype=bool)
        kept = self.sampler.sample(np.asarray(available, dtype=bool))
        return {"mask": torch.from_numpy(kept.astype(np.float32))}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Add the mask to the sample and, if asked to, zero the image."""
        data_dict[MASK_KEY] = params["mask"]
        if self.apply_mask and data_dict.get("image") is not None:
            data_dict["image"] = mask_modalities(data_dict["image"], params["mask"])
        return data_dict
