"""nnU-Net's patch loader, with the modality mask in the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunetv2_mstkd.transforms.modality_masking import AVAILABLE_KEY, MASK_KEY


class _RecordingPipeline:
    """Runs a transform pipeline sample by sample, handing in availability and keeping the drawn masks.

    nnU-Net's loader keeps only image and segmentation of what the pipeline returns, so the masks are taken
    here, without a second copy of its batch-making code.
    """

    def __init__(self, pipeline: Any, available: Mapping[str, tuple[bool, ...]]) -> None:
        self.pipeline = pipeline
        self.available = available
        self.keys: list[str] = []
        self.masks: list[Tensor] = []

    def start_batch(self, keys: list[str]) -> None:
        self.keys, self.masks = keys, []

    def __call__(self, **sample: Any) -> dict[str, Any]:
        sample[AVAILABLE_KEY] = self.available.get(self.keys[len(self.masks)])
        transformed = self.pipeline(**sample)
        self.masks.append(transformed.pop(MASK_KEY))
        return transformed

    def __repr__(self) -> str:
        return repr(self.pipeline)


class MaskedPatchLoader(nnUNetDataLoader):
    """:class:`nnUNetDataLoader` whose batches also hold ``modality_mask`` (B, C).

    Args:
        available: case key → flags (C,), for cases that lack modalities; others have all of them.

    The remaining arguments are nnU-Net's. ``transforms`` must end with a ``ModalityMaskingTransform``.
    """

    def __init__(self, *args: Any, available: Mapping[str, tuple[bool, ...]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transforms = _RecordingPipeline(self.transforms, available)

    def get_indices(self) -> list[str]:
        keys = super().get_indices()
        self.transforms.start_batch(list(keys))
        return keys

    def generate_train_batch(self) -> dict[str, Any]:
        batch = super().generate_train_batch()
        batch[MASK_KEY] = torch.stack(self.transforms.masks)
        return batch
