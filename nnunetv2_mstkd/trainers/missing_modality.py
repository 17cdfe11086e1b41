"""The base of every trainer here: nnU-Net's loop with modalities masked in the student's input."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import modalities_of
from nnunetv2_mstkd.settings import ATTRIBUTE_OF, SETTINGS_KEY, parse_settings
from nnunetv2_mstkd.trainers.base import keep_to_thread_limit, seed_everything, supervise_one_scale_plainly
from nnunetv2_mstkd.trainers.checkpoints import SafeCheckpoints
from nnunetv2_mstkd.trainers.generators import build_generators
from nnunetv2_mstkd.trainers.history import TermHistory, epoch_means
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases
from nnunetv2_mstkd.trainers.step import MaskedBatch, StepLosses
from nnunetv2_mstkd.trainers.subset_validation import (
    SubsetRotation,
    SubsetValidation,
    absent_channels_at_zero,
)
from nnunetv2_mstkd.transforms import SubsetSampler, build_sampler


class nnUNetTrainerMissingModality(SafeCheckpoints, SubsetValidation, nnUNetTrainer):
    """nnU-Net's trainer with modality masking; subclasses choose network and losses.

    A training step sees the patch (B, C, ...) and a mask (B, C); the network's input is the patch with
    absent modalities at exactly zero. During the full-modality phase the mask is ignored.

    Hooks for subclasses: :meth:`set_defaults`, :meth:`compute_losses`, :meth:`after_step`,
    :meth:`extra_state`, :meth:`load_extra_state`.

    Attributes (each can be set in the plans, see :class:`nnunetv2_mstkd.settings.Settings`):
        full_phase, lr_restart, sampler, keep_probability, subset_weights, seed, optimizer_name.
    """

    handles_missing_modalities = True
    full_phase: float = 0.0
    lr_restart: float = 0.0  # one decay over both phases; why: docs/benchmarks.md
    sampler: str = "uniform"
    keep_probability: float | Mapping[str, float] = 0.5
    subset_weights: Mapping[str, float] | None = None
    seed: int | None = None
    optimizer_name: str = "sgd"
    gradient_clip: float | None = 12  # nnU-Net's
    _best_ema: float | None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own default
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        keep_to_thread_limit(device)
        self.set_defaults()
        self.settings = parse_settings(self.configuration_manager.configuration.get(SETTINGS_KEY))
        for name, value in self.settings.given().items():
            setattr(self, ATTRIBUTE_OF.get(name, name), value)
        channel_names = dataset_json.get("channel_names") or dataset_json["modality"]
        self.modalities = modalities_of(channel_names)
        self.subset_sampler()  # refuses unknown modalities before any data are read
        self.phases = Phases.from_fraction(self.num_epochs, self.full_phase_in_force())
        self.rotation = SubsetRotation(self.modalities, self.num_val_iterations_per_epoch)
        self.history = TermHistory()

    # ---------------------------------------------------------------- what subclasses change

    def set_defaults(self) -> None:
        """Change what nnU-Net's constructor sets (learning rate, epochs); the plans' settings follow."""

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        """Loss of one step."""
        loss = self.loss(self.network(batch.masked), batch.target)
        return StepLosses(loss, {"segmentation": loss})

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters that the main optimizer updates and gradient clipping bounds."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def after_step(self) -> dict[str, Tensor]:
        """Called after the main optimizer's step (a discriminator trains here); returns more for the log."""
        return {}

    def full_phase_in_force(self) -> float:
        """Share of the epochs with all modalities, once the settings are known."""
        return self.full_phase

    def extra_state(self, final: bool) -> dict[str, Any]:
        return {"history": self.history.state_dict(), "full_epochs": self.phases.full_epochs}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        if self._best_ema == float("inf"):
            self._best_ema = None  # written during the full-modality phase, see on_epoch_end
        if "history" in state:
            self.history.load_state_dict(state["history"])
        stored = state.get("full_epochs", self.phases.full_epochs)
        if stored != self.phases.full_epochs:
            if self.current_epoch < self.num_epochs <= stored:
                raise MSTKDError(
                    f"the checkpoint's full-modality phase has {stored} epochs, but these plans train for"
                    f" {self.num_epochs}: nothing would ever be masked; set num_epochs above {stored}, or"
                    " start anew without --c"
                )
            self.print_to_log_file(
                f"Continuing with the checkpoint's full-modality phase of {stored} epochs."
            )
            self.phases = Phases(self.num_epochs, stored)
            self.lr_scheduler = self.build_lr_scheduler()

    # ---------------------------------------------------------------- building

    def initialize(self) -> None:
        if self.seed is not None:
            seed_everything(self.seed, "initialize")  # equal on every rank: DDP broadcasts rank 0 anyway
        supervise_one_scale_plainly(self)
        super().initialize()

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """``module`` for distributed data parallel, with synchronised batch norms, as nnU-Net's network."""
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        device_ids = [self.local_rank] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=device_ids)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PhasedPolyLRScheduler]:
        parameters = self.trainable_parameters()
        self.optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adamw":
            self.optimizer = torch.optim.AdamW(parameters, self.initial_lr, weight_decay=self.weight_decay)
        else:
            self.optimizer = torch.optim.SGD(
                parameters, self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True
            )
        return self.optimizer, self.build_lr_scheduler()

    def build_lr_scheduler(self) -> PhasedPolyLRScheduler:
        """Learning rate over the epochs of both phases."""
        return PhasedPolyLRScheduler(self.optimizer, self.initial_lr, self.phases, restart=self.lr_restart)

    def subset_sampler(self) -> SubsetSampler:
        """The distribution of training subsets that the settings name."""
        return build_sampler(
            self.sampler,
            self.modalities,
            keep_probability=self.keep_probability,
            subset_weights=self.subset_weights,
        )

    def get_dataloaders(self) -> tuple[Any, Any]:
        return build_generators(self)

    # ---------------------------------------------------------------- training

    @property
    def in_full_phase(self) -> bool:
        """Whether the running epoch trains on all modalities."""
        return self.phases.is_full(self.current_epoch)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.print_to_log_file(
            f"Modalities: {', '.join(self.modalities)}; subsets: "
            f"{self.subset_sampler()!r}; full-modality phase: {self.phases.full_epochs} of "
            f"{self.num_epochs} epochs"
        )
        if self.is_cascaded:
            self.print_to_log_file(
                "WARNING: the previous stage's segmentations were predicted with all modalities and are "
                "never masked, so the student sees in them what its absent modalities showed"
            )

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.seed is not None:
            seed_everything(self.seed, self.current_epoch, self.local_rank)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.phases.full_epochs:
            epoch, length = self.phases.position(self.current_epoch)
            name = "full-modality" if self.in_full_phase else "masking"
            self.print_to_log_file(f"Phase: {name}, epoch {epoch + 1} of {length}")

    def autocast(self) -> Any:
        """nnU-Net's rule: mixed precision on CUDA only."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        on_device = MaskedBatch.on_device(batch, self.device, whole=self.in_full_phase)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses = self.compute_losses(on_device)
        self.backward(losses.total)
        self._update()
        losses.terms.update(self.after_step())
        # The terms stay on the device until the epoch ends: reading each one here would stall it.
        terms = {name: value.detach() for name, value in losses.terms.items()}
        loss = losses.total if losses.done is None else losses.total + losses.done
        return {"loss": loss.detach().float().cpu().numpy(), "terms": terms}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled on CUDA, to those of this step."""
        with torch.autocast(self.device.type, enabled=False):
            (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

    def _update(self) -> None:
        """nnU-Net's update: clipped gradient norm, optimizer step."""
        scaler = self.grad_scaler
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.trainable_parameters(), self.gradient_clip)
        if scaler is None:
            self.optimizer.step()
            return
        scaler.step(self.optimizer)
        scaler.update()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        steps = [output.pop("terms") for output in train_outputs]
        super().on_train_epoch_end(train_outputs)
        means = epoch_means(steps)
        # Segmentation losses may be negative (Dice), so they are drawn in a panel of their own.
        panels = {n: "segmentation" if n.endswith("segmentation") else "terms" for n in means}
        self.history.log(self.current_epoch, {f"{panels[n]}/{n}": value for n, value in means.items()})
        self.print_to_log_file("terms", {name: float(f"{value:.4g}") for name, value in means.items()})

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with absent_channels_at_zero(self):
            super().perform_actual_validation(save_probabilities)

    def on_epoch_end(self) -> None:
        in_full_phase = self.in_full_phase
        if in_full_phase:
            self._best_ema = float("inf")  # nothing beats it: no checkpoint_best from this phase
        super().on_epoch_end()
        if in_full_phase:
            self._best_ema = None
        if self.local_rank == 0:
            self.history.plot(Path(self.output_folder))
