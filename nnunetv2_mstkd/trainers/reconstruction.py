"""The full phase as segmentation and reconstruction of masked input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.precision import full_precision
from nnunetv2_mstkd.settings import Setting, is_number, non_negative, one_of
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.subset_validation import nnUNetTrainerSubsetValidation

ALL_MODALITIES, RECONSTRUCTION = FULL_PHASE_TASKS = ("all_modalities", "reconstruction")
# Blocks per axis of a patch; an axis shorter than that has one per voxel.
_BLOCKS = 8


class MaskedReconstruction:
    """Hides modalities and blocks of a patch, and has the network give all of it back beside its logits.

    A convolution of kernel size 1 makes the images from the features that the finest segmentation head sees.
    It belongs to the trainer, not to the network: exported models do not have it.

    Source: masked autoencoding over modalities and blocks as in M3AE (AAAI 2023) and UniME (arXiv
    2604.22177), with the loss over the whole patch, in the time that a phase on all modalities takes.

    Args:
        network: whose decoder has ``seg_layers``, the finest last; neither compiled nor in DDP.
        modalities: M, the first channels of the input.
        hidden_share: of the blocks.

    Raises:
        MSTKDError: the network has no such decoder.
    """

    def __init__(self, network: nn.Module, modalities: int, hidden_share: float) -> None:
        heads: Any = getattr(getattr(network, "decoder", None), "seg_layers", None)
        if not heads:
            raise MSTKDError(
                f"{type(network).__name__} has no decoder whose features could give the images back; set"
                f" full_phase_task to '{ALL_MODALITIES}'"
            )
        self.finest = heads[-1]
        self.head: nn.Module = type(self.finest)(self.finest.in_channels, modalities, kernel_size=1)
        for parameter in self.head.parameters():
            # Features of an untrained network may be large: their images would drown the segmentation.
            nn.init.zeros_(parameter)
        self.hidden_share = hidden_share
        self._features: Tensor | None = None
        self._hook: Any = None
        self._looking = False

    def masked(self, batch: MaskedBatch) -> Tensor:
        """The input (B, C, ...): absent modalities and hidden blocks at zero, the same blocks in all."""
        x = batch.masked
        grid = [min(_BLOCKS, size) for size in x.shape[2:]]
        shown = torch.rand(len(x), 1, *grid, device=x.device) >= self.hidden_share
        shown = F.interpolate(shown.to(x.dtype), size=x.shape[2:], mode="nearest")
        modalities = batch.mask.shape[1]
        return torch.cat((x[:, :modalities] * shown, x[:, modalities:]), 1)

    def loss(self, batch: MaskedBatch) -> Tensor:
        """Mean squared error of the images, from the features of the pass that was made last."""
        assert self._features is not None, "no pass has been made since begin"
        images, self._features = self.head(self._features), None
        shape = batch.mask.shape
        has = torch.ones(shape, dtype=torch.bool) if batch.available is None else batch.available
        return reconstruction_error(
            images=images,
            target=batch.data[:, : shape[1]],
            available=has.to(images.device, non_blocking=True),
        )

    def begin(self) -> None:
        """Look at the features of passes with gradients from here on."""
        self._looking = True
        if self._hook is None:
            self._hook = self.finest.register_forward_pre_hook(self._look)

    def end(self) -> None:
        """Leave the network as it was: a copy of it must not take this along."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._features = None
        self._looking = False

    def _look(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A compiled network may keep the hook, but not what it reads here.
        if self._looking and torch.is_grad_enabled():
            self._features = inputs[0]


@full_precision
def reconstruction_error(*, images: Tensor, target: Tensor, available: Tensor) -> Tensor:
    """Mean squared error over the voxels, then over what the cases have.

    Args:
        images: (B, M, ...).
        target: (B, M, ...), normalised.
        available: (B, M) bool; what a case lacks does not count.
    """
    errors = (images - target).square().flatten(2).mean(2)
    return (errors * available).sum() / available.sum().clamp_min(1)


class nnUNetTrainerReconstruction(nnUNetTrainerSubsetValidation):
    """Lets the full phase segment masked input and give it back, if the plans say so.

    Settings, where the network is nnU-Net's or MSTKDNet:
        full_phase_task: ``all_modalities`` (default) or ``reconstruction``: :class:`MaskedReconstruction`.
        hidden_share: share of the blocks that are hidden.
        reconstruction_weight: of the mean squared error, beside the segmentation.
    """

    full_phase_task: str = ALL_MODALITIES
    hidden_share: float = 0.5
    reconstruction_weight: float = 1.0
    reconstruction: MaskedReconstruction | None = None
    full_phase: float

    @classmethod
    def settings_read(cls) -> dict[str, Setting]:
        read = super().settings_read()
        if cls.network_class is None:
            read["full_phase_task"] = one_of(FULL_PHASE_TASKS)
            read["hidden_share"] = Setting(
                "a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1
            ).only_with("full_phase_task", RECONSTRUCTION)
            read["reconstruction_weight"] = non_negative().only_with("full_phase_task", RECONSTRUCTION)
        return read

    def check_full_phase_task(self) -> None:
        """Called once the phases are known.

        Raises:
            MSTKDError: there is no full phase to reconstruct in.
        """
        if self.full_phase_task == RECONSTRUCTION and self.phases.full_epochs == 0:
            raise MSTKDError(
                "full_phase_task 'reconstruction' is for a phase that this training does not have;"
                f" {self.how_to_get_a_full_phase()}, or leave it out"
            )

    def how_to_get_a_full_phase(self) -> str:
        """What to change in plans that give this training none."""
        now = f"set full_phase (now {self.full_phase:g}) and num_epochs (now {self.num_epochs})"
        return f"{now} so that there is one"

    def build_beside(self) -> None:
        super().build_beside()
        if self.full_phase_task == RECONSTRUCTION:
            made = MaskedReconstruction(unwrap(self.network), len(self.modalities), self.hidden_share)
            made.head = made.head.to(self.device)
            if self.is_ddp:
                made.head = self.wrap_ddp(made.head)
            self.reconstruction = made

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """``module`` for distributed data parallel, with synchronised batch norms, as nnU-Net's network."""
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        device_ids = [self.local_rank] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=device_ids)

    def trainable_parameters(self) -> list[nn.Parameter]:
        own = [] if self.reconstruction is None else list(self.reconstruction.head.parameters())
        return super().trainable_parameters() + own

    @property
    def reconstructs_now(self) -> bool:
        """Whether the running epoch gives masked input back."""
        return self.reconstruction is not None and self.in_full_phase

    def reconstruction_losses(self, batch: MaskedBatch) -> StepLosses:
        """Losses of a step of that phase."""
        assert self.reconstruction is not None, "build_beside has made it"
        self.reconstruction.begin()
        segmentation = self.loss(self.network(self.reconstruction.masked(batch)), batch.target)
        error = self.reconstruction.loss(batch)
        total = segmentation.float() + self.reconstruction_weight * error
        return StepLosses(total, {SEGMENTATION: segmentation, RECONSTRUCTION: error})

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.reconstruction is not None and not self.in_full_phase:
            self.reconstruction.end()

    def extra_state(self, final: bool) -> dict[str, Any]:
        state = super().extra_state(final)
        if self.reconstruction is not None and not final:
            state[RECONSTRUCTION] = unwrap(self.reconstruction.head).state_dict()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if self.reconstruction is not None and RECONSTRUCTION in state:
            unwrap(self.reconstruction.head).load_state_dict(state[RECONSTRUCTION])
