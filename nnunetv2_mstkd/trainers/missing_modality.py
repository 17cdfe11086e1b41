"""The base of every method here: nnU-Net's loop with modalities masked in the student's input."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import Subset
from nnunetv2_mstkd.models.folder import dataset_modalities
from nnunetv2_mstkd.settings import (
    Setting,
    is_number,
    one_of,
    positive,
    weights_by_name,
)
from nnunetv2_mstkd.trainers.adversary import Adversary
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.data_loader import Switch
from nnunetv2_mstkd.trainers.generators import build_generators
from nnunetv2_mstkd.trainers.history import epoch_means
from nnunetv2_mstkd.trainers.lending import learn_to_lend
from nnunetv2_mstkd.trainers.own_network import STEM
from nnunetv2_mstkd.trainers.partly_frozen import CONDITIONING
from nnunetv2_mstkd.trainers.phases import PhasedPolyLRScheduler, Phases
from nnunetv2_mstkd.trainers.reconstruction import nnUNetTrainerReconstruction
from nnunetv2_mstkd.trainers.step import EXPRESSION, SEGMENTATION, MaskedBatch, StepLosses, StepState
from nnunetv2_mstkd.trainers.subset_difficulty import followed
from nnunetv2_mstkd.trainers.subset_validation import SubsetRotation
from nnunetv2_mstkd.transforms import SubsetSampler, build_sampler
from nnunetv2_mstkd.transforms.subset_samplers import SAMPLERS


def _are_probabilities(value: Any) -> bool:
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    return bool(values) and all(is_number(p) and 0 < p <= 1 for p in values)


def _are_dice(value: Any) -> bool:
    return isinstance(value, Mapping) and all(is_number(d) and 0 <= d <= 1 for d in value.values())


class nnUNetTrainerMissingModality(nnUNetTrainerReconstruction):
    """nnU-Net's trainer with modality masking; a method chooses network and losses.

    A training step sees the patch (B, C, ...) and a mask (B, C); the network's input is the patch with
    absent modalities at exactly zero. During the full-modality phase the mask is ignored.

    Settings, beside those of :class:`nnUNetTrainerFromPlans` and :class:`nnUNetTrainerReconstruction`:
        full_phase: share of ``num_epochs`` that trains on all modalities before masking starts, in [0, 1).
        lr_restart: share of ``initial_lr`` at which masking starts after a full-modality phase; 0 is no
            restart but one decay over both phases.
        sampler: which subset a training patch keeps (see ``transforms.subset_samplers``).
        keep_probability: for ``bernoulli``: one number, or a dict of modality names to numbers.
        subset_weights: for ``weights``: ``{"t1c+t2f": 2.0, ...}``.
        single_weight: for ``uniform`` and ``difficulty``: how much more likely a single modality is than
            another subset.
        reference_dice: for ``difficulty``: Dice that subsets could reach, ``{"t1c": 0.8, ...}``; see
            :class:`~nnunetv2_mstkd.trainers.subset_difficulty.SubsetDifficulty`.
        weights: weights of single losses by name; only of trainers that have more than the segmentation.

    Attributes of the class:
        network_class, network_settings: see :class:`nnUNetTrainerOwnNetwork`.
        default_weights: weight of every loss by name; the names are what the setting ``weights`` may hold.

    Hooks: :meth:`compute_losses`, :meth:`after_step`, and those of :class:`nnUNetTrainerFromPlans`.
    """

    own_settings: ClassVar[Mapping[str, Setting]] = {
        "full_phase": Setting("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1),
        "lr_restart": Setting("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1),
        "sampler": one_of(SAMPLERS),
        "keep_probability": Setting(
            "a number above 0 and up to 1, or a dict of modality names to such numbers", _are_probabilities
        ).only_with("sampler", "bernoulli"),
        "subset_weights": weights_by_name().only_with("sampler", "weights"),
        "single_weight": positive().only_with("sampler", "uniform", "difficulty"),
        "reference_dice": Setting("a dict of subsets to numbers from 0 to 1", _are_dice).only_with(
            "sampler", "difficulty"
        ),
    }
    handles_missing_modalities = True
    default_weights: ClassVar[Mapping[str, float]] = {SEGMENTATION: 1.0}

    full_phase: float = 0.0
    lr_restart: float = 0.0  # one decay over both phases; why: docs/benchmarks.md
    sampler: str = "uniform"
    keep_probability: float | Mapping[str, float] = 0.5
    subset_weights: Mapping[str, float] | None = None
    single_weight: float = 1.0
    reference_dice: Mapping[str, float] | None = None
    term_weights: Mapping[str, float] | None = None
    gradient_clip: float | None = 12  # nnU-Net's
    unlabelled_share: float = 0.0
    switched_off: frozenset[str] = frozenset()  # losses that these networks cannot have
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
        self.modalities = dataset_modalities(dataset_json)
        self.subsets = self.subset_sampler()  # refuses unknown modalities before any data are read
        self.difficulty = followed(self.subsets, self.modalities, self.reference_dice)
        self.weights = self.weights_in_force()
        self.full_phase = self.full_phase_in_force()  # debug.json then says what was in force
        self.phases = Phases.from_fraction(self.num_epochs, self.full_phase)
        self.check_full_phase_task()
        self.rotation = SubsetRotation(self.modalities, self.num_val_iterations_per_epoch)
        self.step_state = StepState()
        self.adversaries: dict[str, Adversary] = {}
        self.unlabelled_on = Switch()

    @classmethod
    def settings_read(cls) -> dict[str, Setting]:
        read = super().settings_read()
        if len(cls.default_weights) > 1:
            read["weights"] = weights_by_name(attribute="term_weights")
        return read

    @classmethod
    def weights_by_default(cls) -> dict[str, float]:
        return dict(cls.default_weights)

    # ---------------------------------------------------------------- what subclasses change

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        """Loss of one step."""
        if self.reconstructs_now:
            return self.reconstruction_losses(batch)
        return self.weighted({SEGMENTATION: self.loss(self.network(batch.masked), batch.target)})

    def after_step(self) -> dict[str, Tensor]:
        """Called after the main optimizer's step: the discriminators' turn; returns more for the log."""
        judged, self.step_state.judged = self.step_state.judged, {}
        return {name: self.adversaries[name].step(**features) for name, features in judged.items()}

    def full_phase_in_force(self) -> float:
        """Share of the epochs with all modalities, once the settings are known."""
        if self.train_only == CONDITIONING:  # learns nothing from complete input: only for whoever asks
            return self.settings.get("full_phase", 0.0)
        return self.full_phase

    def weights_in_force(self) -> dict[str, float]:
        """Weight of every loss by name: the class's, with those of the plans put in.

        Raises:
            MSTKDError: the plans weigh a loss that this trainer does not have.
        """
        given = dict(self.term_weights or {})
        for name in given:
            if name not in self.default_weights:
                raise MSTKDError(
                    f"{type(self).__name__} has no term '{name}' to weigh (setting 'weights' of the plans);"
                    f" it has: {', '.join(self.default_weights)}"
                )
        return {**self.weights_by_default(), **given}

    def weights_now(self) -> dict[str, float]:
        """Weights in the running epoch; a method's schedules go here."""
        return self.weights

    def weighted(self, losses: Mapping[str, Tensor]) -> StepLosses:
        """Add named losses up by their weights; those of weight 0 need not be there."""
        weights = self.weights_now()
        total = torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
        return StepLosses(total, dict(losses))

    def counts(self, name: str) -> bool:
        """Whether a loss has to be computed: of weight 0 only under DDP, which waits for all gradients.

        One that was switched off cannot be.
        """
        return self.weights[name] > 0 or (self.is_ddp and name not in self.switched_off)

    def extra_state(self, final: bool) -> dict[str, Any]:
        state: dict[str, Any] = {
            **super().extra_state(final),
            "history": self.history.state_dict(),
            "full_epochs": self.phases.full_epochs,
        }
        if self.adversaries and not final:
            state["adversaries"] = {name: a.state_dict() for name, a in self.adversaries.items()}
        if self.difficulty is not None and not final:
            state["difficulty"] = self.difficulty.state_dict()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if self._best_ema == float("inf"):
            self._best_ema = None  # written during the full-modality phase, see on_epoch_end
        if "history" in state:
            self.history.load_state_dict(state["history"])
        for name, stored in state.get("adversaries", {}).items():
            if name in self.adversaries:
                self.adversaries[name].load_state_dict(stored)
        if self.difficulty is not None and "difficulty" in state:
            self.difficulty.load_state_dict(state["difficulty"])
        self._continue_phases(state.get("full_epochs", self.phases.full_epochs))

    def _continue_phases(self, stored: int) -> None:
        if stored == self.phases.full_epochs:
            return
        if self.current_epoch < self.num_epochs <= stored:
            raise MSTKDError(
                f"the checkpoint's full-modality phase has {stored} epochs, but these plans train for"
                f" {self.num_epochs}: nothing would ever be masked; set num_epochs above {stored}, or"
                " start anew without --c"
            )
        self.print_to_log_file(f"Continuing with the checkpoint's full-modality phase of {stored} epochs.")
        self.phases = Phases(self.num_epochs, stored)
        self.lr_scheduler = self.build_lr_scheduler()

    # ---------------------------------------------------------------- building

    def add_adversary(self, name: str, discriminator: nn.Module, loss: Any, **options: Any) -> None:
        """Make a discriminator learn beside the network; it judges ``step_state.judged[name]``.

        Args:
            name: of the discriminator's loss in the log.
            discriminator, loss, options: see :class:`Adversary`.
        """
        discriminator = discriminator.to(self.device)
        parallel = self.wrap_ddp(discriminator) if self.is_ddp else None
        self.adversaries[name] = Adversary(discriminator, loss, parallel=parallel, **options)

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
            single_weight=self.single_weight,
        )

    def get_dataloaders(self) -> tuple[Any, Any]:
        self.unlabelled_on.set(not self.in_full_phase)  # before the first batches are made
        return build_generators(self)

    # ---------------------------------------------------------------- training

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

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.unlabelled_on.set(not self.in_full_phase)
        if self.phases.full_epochs:
            epoch, length = self.phases.position(self.current_epoch)
            of_it = "reconstruction" if self.reconstructs_now else "full-modality"
            name = of_it if self.in_full_phase else "masking"
            self.print_to_log_file(f"Phase: {name}, epoch {epoch + 1} of {length}")

    def autocast(self) -> Any:
        """nnU-Net's rule: mixed precision on CUDA only."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def subsets_validated(self, dice: Mapping[Subset, float]) -> None:
        if self.difficulty is None or self.in_full_phase:
            return
        epoch, length = self.phases.position(self.current_epoch)
        self.difficulty.update(dice, (epoch + 1) / length)
        shown = {name: round(share, 4) for name, share in self.difficulty.probabilities.items()}
        self.print_to_log_file("Subsets are drawn with", shown)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.difficulty is not None and not self.in_full_phase:
            batch = self.difficulty.redrawn(batch)
        whole = self.in_full_phase and not self.reconstructs_now
        on_device = MaskedBatch.on_device(batch, self.device, whole=whole)
        self.optimizer.zero_grad(set_to_none=True)
        lent = self._learn_to_lend(on_device)
        with self.autocast():
            losses = self.compute_losses(on_device)
        self.backward(losses.total)
        self._update()
        self.average_weights()
        losses.terms.update(self.after_step())
        if lent is not None:
            losses.add_done(EXPRESSION, lent, self.expression_weight)
        # The terms stay on the device until the epoch ends: reading each one here would stall it.
        terms = {name: value.detach() for name, value in losses.terms.items()}
        loss = losses.total if losses.done is None else losses.total + losses.done
        return {"loss": loss.detach().float().cpu().numpy(), "terms": terms}

    def _learn_to_lend(self, batch: MaskedBatch) -> Tensor | None:
        """Gradients of the expression loss, taken before those of the rest, whose maps need the memory."""
        adapter = self.train_only == CONDITIONING  # keeps what its model learnt
        if self.borrowing != STEM or self.expression_weight == 0 or adapter:
            return None
        borrowing: Any = unwrap(self.network).borrowing
        with self.autocast():
            return learn_to_lend(
                borrowing, batch.data, lambda loss: self.backward(self.expression_weight * loss)
            )

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
        panels = {n: SEGMENTATION if n.endswith(SEGMENTATION) else "terms" for n in means}
        self.history.log(self.current_epoch, {f"{panels[n]}/{n}": value for n, value in means.items()})
        self.print_to_log_file("terms", {name: float(f"{value:.4g}") for name, value in means.items()})

    def on_epoch_end(self) -> None:
        in_full_phase = self.in_full_phase
        if in_full_phase:
            self._best_ema = float("inf")  # nothing beats it: no checkpoint_best from this phase
        super().on_epoch_end()
        if in_full_phase:
            self._best_ema = None
        if self.local_rank == 0:
            self.history.plot(Path(self.output_folder))
