"""One step of the masking phase before the first epoch: what cannot work shows then, not half-way through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import Teaching


def rehearse(trainer: nnUNetTrainerMissingModality, teaching: Teaching) -> None:
    """Take the gradients of a distilling step on noise, and leave the training as it was.

    Every process of a distributed training has to call this. The optimizer's own memory, which comes with its
    first step, is not in it yet.

    Raises:
        MSTKDError: the step needs more memory than there is.
    """
    first = trainer.phases.full_epochs
    trainer.print_to_log_file(f"Trying a step of the masking phase, which begins with epoch {first}")
    try:
        with _left_as_it_was(trainer, teaching):
            trainer.current_epoch = first
            trainer.network.train()
            teaching.start_epoch()
            with trainer.autocast():
                losses = trainer.compute_losses(_noise(trainer))
            trainer.backward(losses.total)
    except torch.cuda.OutOfMemoryError as error:
        raise MSTKDError(
            f"the masking phase, which begins with epoch {first}, needs more memory than there is"
            f" ({str(error).splitlines()[0]}); plan for less with nnUNetv2_mstkd plan -gpu_memory_target"
        ) from error
    finally:
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()


def _noise(trainer: nnUNetTrainerMissingModality) -> MaskedBatch:
    """A batch of the training's shape, with a background as its target."""
    size, batch = tuple(trainer.configuration_manager.patch_size), trainer.batch_size
    labels, device = trainer.label_manager, trainer.device
    channels = len(labels.foreground_regions) + labels.has_ignore_label if labels.has_regions else 1
    scales = trainer._get_deep_supervision_scales()
    sizes = [size] if scales is None else [_scaled(size, factors) for factors in scales]
    levels = [torch.zeros(batch, channels, *level, device=device) for level in sizes]
    mask = torch.ones(batch, len(trainer.modalities), device=device)
    mask[:, 0] = 0
    return MaskedBatch(
        data=torch.randn(batch, trainer.num_input_channels, *size, device=device),
        mask=mask,
        target=levels[0] if scales is None else levels,
        complete=(True,) * batch,
    )


def _scaled(size: tuple[int, ...], factors: list[float]) -> tuple[int, ...]:
    return tuple(round(length * factor) for length, factor in zip(size, factors, strict=True))


@contextmanager
def _left_as_it_was(trainer: nnUNetTrainerMissingModality, teaching: Teaching) -> Iterator[None]:
    """Keep what a step changes: gradients, running statistics, teacher, random numbers, step state."""
    epoch, state, own_log = trainer.current_epoch, trainer.step_state, vars(trainer).get("print_to_log_file")
    kept, buffers = dict(vars(teaching)), [b.clone() for b in trainer.network.buffers()]
    trainer.step_state = state.on_trial()
    trainer.print_to_log_file = lambda *words, **options: None
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    drawn = np.random.get_state()  # subsets come from it
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(drawn)
        del trainer.print_to_log_file
        if own_log is not None:
            trainer.print_to_log_file = own_log
        trainer.current_epoch, trainer.step_state = epoch, state
        vars(teaching).clear()
        vars(teaching).update(kept)
        trainer.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(trainer.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
