"""nnU-Net's patch loader, with the modality mask in the batch."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from multiprocessing import Process, RawValue
from queue import Empty
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.transforms.modality_masking import AVAILABLE_KEY, BATCH_AVAILABLE_KEY, MASK_KEY

# In batches: whether the case of each sample has a segmentation, (B,) bool.
LABELLED_KEY = "labelled"


class Switch:
    """On or off, in this process and in those that it starts."""

    def __init__(self) -> None:
        self._value = RawValue("b", 0)

    def set(self, on: bool) -> None:
        """Switch it."""
        self._value.value = on

    def __bool__(self) -> bool:
        return bool(self._value.value)


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
        self._position = 0

    def start_batch(self, keys: list[str]) -> None:
        self.keys, self.masks, self._position = keys, [], 0

    def __call__(self, **sample: Any) -> dict[str, Any]:
        available = self.available[self.keys[self._position]]
        self._position += 1
        transformed = self.pipeline(**sample, **{AVAILABLE_KEY: available})
        if MASK_KEY in transformed:
            self.masks.append(transformed[MASK_KEY])
        return transformed

    def __repr__(self) -> str:
        return repr(self.pipeline)


class MaskedPatchLoader(nnUNetDataLoader):
    """:class:`nnUNetDataLoader` that knows which cases lack modalities.

    Every batch also holds ``modality_available`` (B, C), bool: what the case of each sample has. If
    ``transforms`` ends with a ``ModalityMaskingTransform``, it holds ``modality_mask`` (B, C) as well: what
    the student sees. With ``unlabelled`` cases, ``labelled`` (B,), bool, says whose case has a segmentation.

    A modality that the case lacks is zero, whatever normalisation and augmentation made of its placeholder:
    the teacher and the full-modality phase see it as the student does.

    Args:
        available: case key → flags (C,), for every case of ``data``.
        unlabelled: cases of ``data`` without a segmentation.
        unlabelled_share: of the samples of a batch that are drawn from these, once ``unlabelled_on``; at
            least one sample has a segmentation.
        unlabelled_on: until then, they are not drawn.

    The remaining arguments are nnU-Net's.
    """

    def __init__(
        self,
        *args: Any,
        available: Mapping[str, tuple[bool, ...]],
        unlabelled: Sequence[str] = (),
        unlabelled_share: float = 0.0,
        unlabelled_on: Switch | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._unlabelled = frozenset(unlabelled)
        keys: list[str] = list(self._data.identifiers)
        self._drawn_unlabelled = [key for key in keys if key in self._unlabelled]
        self.indices = [key for key in keys if key not in self._unlabelled]
        self._unlabelled_number = min(round(unlabelled_share * self.batch_size), self.batch_size - 1)
        self._unlabelled_on = unlabelled_on
        self._recording = _RecordingPipeline(self.transforms, available)
        self.transforms: Any = self._recording

    def get_indices(self) -> list[str]:
        keys = self._with_unlabelled(list(super().get_indices()))
        self._recording.start_batch(list(keys))
        return keys

    def _with_unlabelled(self, keys: list[str]) -> list[str]:
        """Put cases without a segmentation into some places of a batch, oversampled ones and others alike."""
        if not self._unlabelled_on or not self._drawn_unlabelled:
            return keys
        places = np.random.choice(len(keys), self._unlabelled_number, replace=False)
        for place in places:
            keys[place] = self._drawn_unlabelled[np.random.randint(len(self._drawn_unlabelled))]
        return keys

    def generate_train_batch(self) -> dict[str, Any]:
        batch = super().generate_train_batch()
        available = torch.tensor([self.transforms.available[key] for key in batch["keys"]])
        for sample, channel in (~available).nonzero().tolist():
            batch["data"][sample, channel].zero_()  # in place: nnU-Net has just made this tensor
        batch[BATCH_AVAILABLE_KEY] = available
        if self._unlabelled:
            batch[LABELLED_KEY] = torch.tensor([key not in self._unlabelled for key in batch["keys"]])
        if self.transforms.masks:
            batch[MASK_KEY] = torch.stack(self.transforms.masks)
        return batch


class WatchedAugmenter(NonDetMultiThreadedAugmenter):
    """nnU-Net's augmenter, which notices a lost worker whatever that worker held at its end.

    The stock one learns of a dead worker through an event that all its processes share. A worker that is
    killed (the system is out of memory) while it holds the event's lock, or with half a batch in the pipe,
    leaves the training waiting for ever. Here the waiting side asks only for the processes themselves.
    """

    _processes: list[Process]

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            MSTKDError: a data loading process has ended; the others are stopped.
        """
        if not self.initialized:
            self._start()
        while True:
            codes = [worker.exitcode for worker in self._processes]
            ended = [code for code in codes if code is not None]
            if ended:
                reason = _reason(min(ended), len(codes))  # a killed one (below 0) before those it took along
                self._abandon()
                raise MSTKDError(reason)
            try:
                batch = self.results_loop_queue.get(timeout=self.wait_time)
            except Empty:
                continue
            self.results_loop_queue.task_done()
            return batch

    def _abandon(self) -> None:
        """End the workers without the events and queues they share: a dead one may hold their locks."""
        for worker in self._processes:
            worker.kill()
            worker.join()
        self._processes = []
        self.initialized = False  # with this, the stock clean-up has nothing left to wait for


def _reason(code: int, number: int) -> str:
    if code < 0:
        how = f"was killed by signal {-code} ({signal.strsignal(-code)}); the system may be out of memory"
        remedy = f"continue with --c and fewer processes (nnUNet_n_proc_DA, now {number})"
    else:
        how, remedy = f"ended (exit code {code})", "the cause is printed above; continue with --c"
    return f"1 of {number} data loading processes {how}: {remedy}"
