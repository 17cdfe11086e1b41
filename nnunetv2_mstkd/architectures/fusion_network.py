"""What networks with an encoder per modality share around their fusion: RFNet, mmFormer and those after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.fusion import (
    ModalityEncoders,
    SegmentationDecoder,
    separate_segmentations,
    upsampled_logits,
)
from nnunetv2_mstkd.architectures.presence import presence, shown
from nnunetv2_mstkd.architectures.shapes import pad_to_multiple
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, TensorOrList, wants

LEAST_VOXELS = 2  # per axis of the coarsest map: reflection needs two


class FusionNetwork(nn.Module):
    """Base: encoders, a decoder that all modalities share in training, and a fusion that each network brings.

    Which modalities are there is read from the zeros, see :func:`presence`; an absent one has no influence.
    Any patch works: it is padded with zeros to a multiple of the network's stride, outputs are cropped back.

    Args:
        strides: per level and axis, of :func:`checked_strides`.
        regions: heads are regions that may overlap: probabilities are sigmoids instead of a softmax.

    Attributes of the class:
        further_tap: name of the further segmentations that training supervises.
        unused_keys: of the authors' checkpoints: what their code holds and never uses.

    Attributes:
        total_stride: per axis.
        encoders, separate_decoder: built by the network.
    """

    further_tap: ClassVar[str] = "scales"
    unused_keys: ClassVar[re.Pattern[str] | None] = None
    encoders: ModalityEncoders
    separate_decoder: SegmentationDecoder

    def __init__(self, strides: Sequence[Sequence[int]], regions: bool) -> None:
        super().__init__()
        self.regions = regions
        self.total_stride = tuple(prod(of_axis) for of_axis in zip(*strides, strict=True))

    def coarsest_grid(self, patch_size: Sequence[int]) -> list[int]:
        """Voxels per axis of the coarsest map, for a patch after padding."""
        return [max(-(-n // s), LEAST_VOXELS) for n, s in zip(patch_size, self.total_stride, strict=True)]

    def forward(
        self, x: Tensor, return_taps: Request = False, present: Tensor | None = None
    ) -> Tensor | NetworkTaps:
        """Logits (B, K, *patch), without a nonlinearity.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps` with full-resolution logits (B, K, *patch) in ``inner``:
                ``separate``, of every modality on its own, and the network's ``further_tap``, finest first.
            present: (B, M) bool, which of the modalities that ``x`` shows the fusion may see; all by default.
                So in the released training: ``separate`` learns from all modalities, whatever the mask hides.

        A sample that shows nothing, and ``separate`` of a channel of zeros, has the head's bias everywhere
        and no gradient, see :func:`bias_where_blank`.
        """
        there = shown(x)
        present = presence(x) if present is None else present & presence(x)
        padded, crop = pad_to_multiple(x, self.total_stride, least=LEAST_VOXELS)
        levels = self.encoders(padded)
        inner: dict[str, TensorOrList] = {}
        if wants(return_taps, "separate"):
            separate = separate_segmentations(self.separate_decoder, levels, ~there)
            inner["separate"] = [logits[crop] for logits in separate]
        with_further = wants(return_taps, self.further_tap)
        logits, further = self.fuse(levels, present, ~(there & present).any(1), with_further)
        if return_taps is False:
            return logits[crop]
        if with_further:
            full = (upsampled_logits(of_one, padded.shape[2:], self.regions) for of_one in further)
            inner[self.further_tap] = [of_one[crop] for of_one in full]
        return NetworkTaps(logits[crop], inner)

    def fuse(
        self, levels: list[list[Tensor]], present: Tensor, blank: Tensor, with_further: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K, ...) at full resolution, and those of ``further_tap`` at their own, finest first.

        Args:
            levels: per level a map (B, C, ...) per modality, not masked; the list may be emptied, so that
                a level's maps make room for what is made of them where no gradient is asked for.
            present: (B, M) bool.
            blank: (B,) bool, samples in which nothing is to be seen.
            with_further: whether the further segmentations are asked for; else what is returned is not read.
        """
        raise NotImplementedError

    def released_names(self) -> dict[str, str]:
        """Key in our state dict → key in the authors' checkpoints."""
        raise NotImplementedError

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the authors' code, in its keys, with or without their ``module.`` in front.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        names = self.released_names()
        used = {
            key: tensor
            for key, tensor in state_dict.items()
            if key.removeprefix("module.") in names.values() or not self._never_used(key)
        }
        load_foreign(self, names, used)

    def _never_used(self, key: str) -> bool:
        return self.unused_keys is not None and bool(self.unused_keys.match(key.removeprefix("module.")))
