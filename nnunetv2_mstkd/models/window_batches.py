"""nnU-Net's sliding window with several small windows in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache

# Voxels in one pass. A 2D slice alone leaves the processor waiting for the network's weights; a 3D patch of
# nnU-Net's usual size is a pass of its own, so that memory stays what it was.
VOXELS_PER_PASS = 2**16

_Window = tuple[Any, ...]


def windows_per_pass(patch_size: Sequence[int]) -> int:
    """Return how many windows of a patch size share a pass; at least 1."""
    return max(1, VOXELS_PER_PASS // math.prod(patch_size))


class BatchingPredictor(nnUNetPredictor):
    """``nnUNetPredictor``, several windows at a time where they are small.

    The windows are the same, and their logits are added up in the same order. A batch may round differently
    from single windows, by as much as one pass differs from another on another machine.
    """

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: list[_Window], do_on_device: bool = True
    ) -> torch.Tensor:
        """Return the mean logits (heads, ...) float16 of all windows of ``data`` (C, ...)."""
        at_once = windows_per_pass(self.configuration_manager.patch_size)
        if at_once == 1 or len(slicers) == 1:
            logits: torch.Tensor = super()._internal_predict_sliding_window_return_logits(
                data, slicers, do_on_device
            )
            return logits
        place = self.device if do_on_device else torch.device("cpu")
        try:
            return self._in_groups(data.to(place), _groups(slicers, at_once), place)
        except RuntimeError as error:
            if not do_on_device:
                raise
            # nnU-Net tries again on the CPU while it handles this, and the frames hold what is on the GPU.
            failed = error.with_traceback(None)
        empty_cache(self.device)
        raise failed

    def _in_groups(
        self, data: torch.Tensor, groups: Iterable[Sequence[_Window]], place: torch.device
    ) -> torch.Tensor:
        total = torch.zeros(
            (self.label_manager.num_segmentation_heads, *data.shape[1:]), dtype=torch.half, device=place
        )
        weight = torch.zeros(data.shape[1:], dtype=torch.half, device=place)
        importance = self._importance(place)
        for windows in groups:
            batch = torch.stack([data[window] for window in windows]).to(self.device)
            logits_of = self._internal_maybe_mirror_and_predict(batch).to(place) * importance
            for window, logits in zip(windows, logits_of, strict=True):
                total[window] += logits
                weight[window[1:]] += importance
        total /= weight
        if torch.any(torch.isinf(total)):
            raise RuntimeError("infinite logits: the network's output exceeds what float16 holds")
        return total

    def _importance(self, place: torch.device) -> torch.Tensor:
        """Weight of a window's voxels, as nnU-Net has it."""
        patch = tuple(self.configuration_manager.patch_size)
        if not self.use_gaussian:
            return torch.ones(patch, dtype=torch.half, device=place)
        gaussian: torch.Tensor = compute_gaussian(
            patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=place
        )
        return gaussian


def _groups(windows: Sequence[_Window], size: int) -> Iterator[Sequence[_Window]]:
    for start in range(0, len(windows), size):
        yield windows[start : start + size]
