"""Teachers that a training makes itself.

The network's own past, a second network, the network itself on the whole patch, the network itself on the
same patch with more modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import TEACHER_SEGMENTATION, Passes, Teaching
from nnunetv2_mstkd.transforms.nested_subsets import NestedPairSampler


class FrozenTeacher:
    """A network in eval mode, without gradients, in no optimizer and in no DDP wrapper.

    Args:
        network: taken over; its deep-supervision outputs are switched off.
        compiled: run it through torch.compile, as nnU-Net does with the student.
    """

    def __init__(self, network: nn.Module, compiled: bool = False) -> None:
        self.network = network.requires_grad_(False).eval()
        decoder: Any = getattr(self.network, "decoder", None)
        if decoder is not None:
            decoder.deep_supervision = False
        self._forward = torch.compile(self.network) if compiled else self.network

    @classmethod
    def copy_of(cls, student: nn.Module, compiled: bool = False) -> FrozenTeacher:
        """Freeze a copy of the student as it is now."""
        return cls(deepcopy(student), compiled)

    @torch.no_grad()
    def taps(self, data: Tensor, request: Request) -> NetworkTaps:
        """Logits and taps for the whole patch (B, C, ...)."""
        return self._forward(data, return_taps=request)


class WarmStart(Teaching):
    """A frozen copy of the network as the full-modality phase leaves it."""

    frozen: FrozenTeacher | None = None

    def build(self) -> None:
        trainer = self.trainer
        if trainer.phases.full_epochs == 0:
            raise MSTKDError(
                f"teacher 'warm_start' needs a full-modality phase, but full_phase {trainer.full_phase} of "
                f"{trainer.num_epochs} epochs leaves none; raise one of them, or set teacher 'shared' or"
                " 'joint'"
            )

    def start_epoch(self) -> None:
        if self.frozen is not None:
            return
        self.check_first_epoch()
        self.trainer.print_to_log_file("A frozen copy of the network becomes the teacher.")
        self.frozen = self._copy()

    def _copy(self) -> FrozenTeacher:
        return FrozenTeacher.copy_of(unwrap(self.trainer.network), compiled=self.trainer._do_i_compile())

    def teacher_taps(self, batch: MaskedBatch, request: Request) -> NetworkTaps:
        assert self.frozen is not None, "start_epoch has made it"
        return self.frozen.taps(batch.data, request)

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.frozen is None else self.frozen.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.frozen = self._copy()
        self.frozen.network.load_state_dict(state)


class Joint(Teaching):
    """Two networks learn side by side from the start, with one optimizer (the published way)."""

    learns = True
    network: nn.Module
    begun = False

    def build(self) -> None:
        self.network = self.trainer.new_network()
        if self.trainer._do_i_compile():
            compiled: Any = torch.compile(self.network)  # a module again, whatever torch's signature says
            self.network = compiled

    def distribute(self) -> None:
        if self.trainer.is_ddp:
            self.network = self.trainer.wrap_ddp(self.network)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def start_epoch(self) -> None:
        if not self.begun:
            self.check_first_epoch()
        self.begun = True
        self.network.train()

    def teacher_taps(self, batch: MaskedBatch, request: Request) -> NetworkTaps:
        return self.network(batch.data, return_taps=request)

    def state_dict(self) -> dict[str, Any]:
        return unwrap(self.network).state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        unwrap(self.network).load_state_dict(state)
        self.begun = True


class Shared(Teaching):
    """The network sees the whole patch, learns from it, and distils what it showed into the masked one.

    The gradients of the whole patch are taken before the masked patch runs, so that the feature maps of one
    patch are held at a time: half of what two networks at once need. That is exact where the terms
    detach whatever the teacher shows.
    """

    def build(self) -> None:
        if self.choice.gets_gradients:
            raise MSTKDError(
                "teacher 'shared' needs terms that leave the teacher alone, but this trainer's lead gradients"
                " into the teacher's side too; set teacher 'joint'"
            )

    def run(self, batch: MaskedBatch, request: Request) -> Passes:
        trainer, network = self.trainer, self.trainer.network
        with network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext():
            teacher = network(batch.data, return_taps=request)
            segmentation = trainer.loss(teacher.logits, batch.target)
            trainer.backward(trainer.weights[TEACHER_SEGMENTATION] * segmentation)
        student = network(batch.masked, return_taps=request)
        return Passes(student, teacher.detached(), {TEACHER_SEGMENTATION: segmentation.detach()})


class Nested(Teaching):
    """One patch stands twice in the batch, under two nested subsets; where more is seen teaches.

    A batch of B samples holds B/2 patches, each twice: no multiply-adds more than without a teacher, and half
    the patches per step. The one sample that an odd batch has left stands alone, under its own mask. All of
    them learn from the labels. A case of a single modality has no pair; its patch is seen twice alike.

    The loader's batches are as ever. Every second patch of one is taken, beginning in turn with the first and
    the second, so that random patches and those that nnU-Net centres on the foreground keep their shares.
    """

    steps = 0

    def build(self) -> None:
        if self.trainer.batch_size < 2:
            raise MSTKDError(
                "teacher 'nested' puts each patch into the batch twice, but the batch size"
                f" {'of a process ' if self.trainer.is_ddp else ''}is {self.trainer.batch_size}; plan for 2,"
                " or set teacher 'shared'"
            )
        if self.choice.gets_gradients:
            raise MSTKDError(
                "teacher 'nested' needs terms that leave the teacher alone, but this trainer's lead gradients"
                " into the teacher's side too; set teacher 'joint'"
            )
        self.sampler = NestedPairSampler(self.trainer.subsets)
        self.trainer.print_to_log_file(
            f"The masking phase puts every second patch into the batch twice; subsets: {self.sampler!r}"
        )

    def start_epoch(self) -> None:
        self.steps = self.trainer.current_epoch  # as a continued training has it, and epochs of one step too

    def arranged(self, batch: MaskedBatch) -> MaskedBatch:
        size = len(batch.mask)
        first, second = (list(range(start, size, 2)) for start in (0, 1))
        order = first + second if self.steps % 2 == 0 else second + first
        self.steps += 1
        pairs = size // 2
        twice, alone = order[:pairs], order[pairs : pairs + size % 2]
        larger, smaller = self._subsets(batch, twice)
        leaders = list(range(size))
        for pair, (more, fewer) in enumerate(zip(larger, smaller, strict=True)):
            leaders[pairs + pair] = pair if torch.any(more != fewer) else pairs + pair
        rows = twice + twice + alone
        device = batch.mask.device
        drawn = torch.cat((larger, smaller)).to(device, batch.mask.dtype, non_blocking=True)
        taken = torch.tensor(rows, device=device)
        target = batch.target
        return replace(
            batch,
            data=batch.data[taken],
            mask=torch.cat((drawn, batch.mask[alone])),
            target=[level[taken] for level in target] if isinstance(target, list) else target[taken],
            complete=tuple(batch.complete[row] for row in rows),
            available=None if batch.available is None else batch.available[rows],
            leaders=tuple(leaders),
        )

    def _subsets(self, batch: MaskedBatch, patches: list[int]) -> tuple[Tensor, Tensor]:
        """Larger and smaller subset (n, modalities) of each patch."""
        known = batch.available
        available = torch.ones_like(batch.mask, dtype=torch.bool, device="cpu") if known is None else known
        drawn = [self.sampler.sample(available[patch].numpy()) for patch in patches]
        larger, smaller = (torch.from_numpy(np.stack(masks)) for masks in zip(*drawn, strict=True))
        return larger, smaller

    def run(self, batch: MaskedBatch, request: Request) -> Passes:
        assert batch.leaders is not None, "arranged has set them"
        taps = self.trainer.network(batch.masked, return_taps=request)
        return Passes(taps, taps.select(torch.tensor(batch.leaders, device=batch.mask.device)))
