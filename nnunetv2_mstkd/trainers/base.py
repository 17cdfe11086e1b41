"""nnU-Net's trainer, told by the plans how long and with what to train."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_mstkd.architectures.starting_weights import put_into
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_beside, unlabelled_cases
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import BEST_CHECKPOINT, FINAL_CHECKPOINT, Fold
from nnunetv2_mstkd.models.starting_weights import (
    Start,
    checkpoint_of,
    read_starting_weights,
    start_network,
)
from nnunetv2_mstkd.settings import (
    SETTINGS_KEY,
    Setting,
    check_partners,
    checkpoint_name,
    fold_of_a_model,
    is_number,
    non_negative,
    one_of,
    parse_settings,
    positive,
    true_or_false,
    whole_number,
)
from nnunetv2_mstkd.trainers.checkpoints import count_steps_on_cpu, load_extra, save_with_extra
from nnunetv2_mstkd.trainers.weight_average import WeightAverage

# Class, and its arguments beside learning rate and weight decay.
OptimizerChoice = tuple[Callable[..., torch.optim.Optimizer], Mapping[str, Any]]
OPTIMIZERS: Mapping[str, OptimizerChoice] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.99, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {}),
}


class nnUNetTrainerFromPlans(nnUNetTrainer):
    """Reads settings from the plans, seeds what is random, writes checkpoints that a crash cannot halve.

    Settings (the plans' ``"mstkd"`` dict; each replaces the attribute of the same name):
        num_epochs: epochs in all, a full-modality phase included.
        num_iterations_per_epoch: training steps per epoch.
        num_val_iterations_per_epoch: online-validation steps per epoch.
        save_every: epochs between two ``checkpoint_latest.pth``.
        seed: seeds every epoch from (seed, epoch, rank), so that a continued run repeats an uninterrupted
            one (exactly with single-process loading, ``nnUNet_n_proc_DA=0``).
        initial_lr: learning rate at the start.
        weight_decay: of the optimizer.
        optimizer: ``sgd`` (nnU-Net's: momentum 0.99, Nesterov) or ``adamw`` instead of the trainer's own.
        enable_deep_supervision: losses on the lower-resolution outputs too.
        weight_average: decay of an exponential average of the weights, which is what is validated and
            exported; see :class:`WeightAverage`. None by default.
        init: model folder or checkpoint whose weights the network starts from, see :func:`start_network`.
        init_fold: of the model folder; by default the fold that is trained, or the only one there is.
        init_checkpoint: of that fold; by default checkpoint_final.pth.

    Hooks for subclasses: :meth:`set_defaults`, :meth:`build_beside`, :meth:`trainable_parameters`,
    :meth:`build_optimizer`, :meth:`build_lr_scheduler`, :meth:`extra_state`, :meth:`load_extra_state`.

    Attributes of the class:
        own_settings: settings that a class adds to those of its bases.
        own_optimizer: for plans that name no other; nnU-Net's by default.
        reference: the publication to cite for the method, beside nnU-Net's; empty where there is none.
    """

    reference: ClassVar[str] = ""
    own_optimizer: ClassVar[OptimizerChoice] = OPTIMIZERS["sgd"]
    own_settings: ClassVar[Mapping[str, Setting]] = {
        "num_epochs": whole_number(1),
        "num_iterations_per_epoch": whole_number(1),
        "num_val_iterations_per_epoch": whole_number(1),
        "save_every": whole_number(1),
        "seed": whole_number(0),
        "initial_lr": positive(),
        "weight_decay": non_negative(),
        "optimizer": one_of(OPTIMIZERS, attribute="optimizer_name"),
        "enable_deep_supervision": true_or_false(),
        "weight_average": Setting("a number above 0 and below 1", lambda v: is_number(v) and 0 < v < 1),
        "init": Setting(
            "a model folder or a checkpoint (.pth)", lambda v: isinstance(v, str) and bool(v.strip())
        ),
        "init_fold": fold_of_a_model().only_with_a_model("init"),
        "init_checkpoint": checkpoint_name().only_with_a_model("init"),
    }
    enable_deep_supervision: bool
    seed: int | None = None
    optimizer_name: str | None = None
    weight_average: float | None = None
    average: WeightAverage | None = None
    init: str | None = None
    init_fold: Fold | None = None
    init_checkpoint: str = FINAL_CHECKPOINT
    start: Start | None = None  # while the networks are built
    _no_start: MSTKDError | None = None
    _told_of_unlabelled = False

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's own default
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        _keep_to_thread_limit(device)
        self.set_defaults()
        known = self.settings_read()
        given = self.configuration_manager.configuration.get(SETTINGS_KEY)
        self.settings = parse_settings(given, known, reader=type(self).__name__)
        for name, value in self.settings.items():
            setattr(self, known[name].attribute_for(name), value)
        check_partners(self.settings, known, lambda name: [getattr(self, known[name].attribute_for(name))])

    @classmethod
    def settings_read(cls) -> dict[str, Setting]:
        """Every setting of the plans that this trainer reads, by name."""
        own = [base.__dict__.get("own_settings", {}) for base in reversed(cls.__mro__)]
        return {name: setting for settings in own for name, setting in settings.items()}

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        """What this trainer uses beside one network and one pass, for the list of methods."""
        return ()

    @classmethod
    def weights_by_default(cls) -> dict[str, float]:
        """Weight of every term by name, for plans that set none."""
        return {}

    # ---------------------------------------------------------------- what subclasses change

    def set_defaults(self) -> None:
        """Change what nnU-Net's constructor sets (learning rate, epochs); the plans' settings follow."""

    def build_beside(self) -> None:
        """Make what learns or teaches beside the network; called once the network exists."""

    def leave_out_unused_heads(self, network: nn.Module) -> None:
        """Freeze the heads of nnU-Net's networks that deep supervision alone would use.

        They get no gradient without it, and DDP waits for every parameter that asks for one.
        """
        heads = getattr(getattr(network, "decoder", None), "seg_layers", None)
        if isinstance(heads, nn.ModuleList) and not self.enable_deep_supervision:
            heads[:-1].requires_grad_(False)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters that the main optimizer updates and gradient clipping bounds."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The trainer's own optimizer, for plans that name no other; here :attr:`own_optimizer`."""
        return self._optimizer(self.own_optimizer, parameters)

    def build_lr_scheduler(self) -> PolyLRScheduler:
        """Learning rate of ``self.optimizer`` over the epochs; here nnU-Net's polynomial decay."""
        return PolyLRScheduler(self.optimizer, self.initial_lr, self.num_epochs)

    def extra_state(self, final: bool) -> dict[str, Any]:
        """State beyond nnU-Net's for a checkpoint; the final one holds only what inference may want."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`extra_state`."""

    def why_nothing_unlabelled(self) -> str | None:
        """Why cases without a segmentation are left out of this training; ``None`` if it takes them."""
        return "nothing is learnt here but segmentations"

    # ---------------------------------------------------------------- cases

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split, with the cases without a segmentation in training or nowhere.

        Whatever the split says: what nnU-Net takes for their labels shows nothing but background.
        """
        split = super().do_split()
        unlabelled = unlabelled_cases(self.dataset_json)
        if not unlabelled:
            return split
        training, validation = ([case for case in cases if case not in unlabelled] for cases in split)
        reason = self.why_nothing_unlabelled()
        taken = () if reason else unlabelled_beside(self.dataset_json, validation)
        if not self._told_of_unlabelled:
            self._told_of_unlabelled = True
            others = reason or "their patients are validated here"
            left = len(unlabelled) - len(taken)
            self.print_to_log_file(
                f"Cases without a segmentation: {len(taken)} train the distillation"
                + (f"; {left} are left out: {others}." if left else ".")
            )
        return [*training, *taken], validation

    # ---------------------------------------------------------------- building

    def initialize(self) -> None:
        if self.seed is not None:
            _seed_everything(self.seed, "initialize")  # equal on every rank: DDP broadcasts rank 0 anyway
        self._supervise_one_scale_plainly()
        super().initialize()
        if self.weight_average is not None:
            self.average = WeightAverage(unwrap(self.network), self.weight_average)

    def _supervise_one_scale_plainly(self) -> None:
        """Switch deep supervision off for a network of two stages, whose decoder has a single output.

        nnU-Net leaves the lowest output out by a weight of 0 and divides by the sum of the weights: with one
        output that is 0 / 0, and the loss is nan.
        """
        if self.enable_deep_supervision and len(self._get_deep_supervision_scales()) < 2:
            self.enable_deep_supervision = False
            self.print_to_log_file("One decoder stage: training without deep supervision.")

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        self.leave_out_unused_heads(unwrap(self.network))
        self._start_from_weights()
        self.build_beside()
        self.start = None  # as large as the network
        parameters, named = self.trainable_parameters(), self.settings.get("optimizer")
        self.optimizer: torch.optim.Optimizer = (
            self.build_optimizer(parameters)
            if named is None
            else self._optimizer(OPTIMIZERS[named], parameters)
        )
        self.optimizer_name = type(self.optimizer).__name__.lower()  # nnU-Net's debug.json keeps it
        return self.optimizer, self.build_lr_scheduler()

    def _start_from_weights(self) -> None:
        """Put the weights that the plans name into the network."""
        if self.init is None:
            return
        try:
            file = checkpoint_of(Path(self.init), self.init_fold, self.fold, self.init_checkpoint)
            source = read_starting_weights(file)
        except MSTKDError as error:
            if not any(Path(self.output_folder).glob("checkpoint_*.pth")):
                raise
            self._no_start = error  # a training that goes on, or is validated again, has weights of its own
            return
        shape = (2, self.num_input_channels, *self.configuration_manager.patch_size)
        self.start = start_network(unwrap(self.network), source, self.dataset_json, shape)
        put_into(unwrap(self.network), self.start.values)
        for line in self.start.lines:
            self.print_to_log_file(line)
        dataset, fold = source.training or (None, None)
        if dataset == self.plans_manager.dataset_name and fold != str(self.fold):
            self.print_to_log_file(
                f"WARNING: these weights are of fold {fold}, which may have learnt from cases that validate"
                f" fold {self.fold} here"
            )

    def on_train_start(self) -> None:
        if self._no_start is not None and self.current_epoch == 0:
            raise self._no_start
        if self.average is not None and self.average.steps == 0:
            self.average.restart()  # nnU-Net may have put -pretrained_weights into the network since
        super().on_train_start()

    def _optimizer(self, chosen: OptimizerChoice, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        kind, options = chosen
        return kind(parameters, lr=self.initial_lr, weight_decay=self.weight_decay, **options)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        # nnU-Net takes for granted that every network has such a decoder.
        if getattr(unwrap(self.network), "decoder", None) is not None:
            super().set_deep_supervision_enabled(enabled)

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        if self.seed is not None:
            _seed_everything(self.seed, self.current_epoch, self.local_rank)

    # ---------------------------------------------------------------- the average of the weights

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        output: dict[str, Any] = super().train_step(batch)
        self.average_weights()
        return output

    def average_weights(self) -> None:
        """Called after every update of the network."""
        if self.average is not None:
            self.average.update()

    def on_validation_epoch_start(self) -> None:
        if self.average is not None:
            self.average.put_in_place()
        super().on_validation_epoch_start()

    def on_epoch_end(self) -> None:
        if self.average is not None:
            self.average.take_out()
        super().on_epoch_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._exported():
            super().perform_actual_validation(save_probabilities)

    def _exported(self) -> AbstractContextManager[None]:
        """The network has the weights that a prediction takes."""
        return nullcontext() if self.average is None else self.average.applied()

    # ---------------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # says so, writes nothing
            return
        target = Path(filename)
        final, exported = target.name == FINAL_CHECKPOINT, target.name in (FINAL_CHECKPOINT, BEST_CHECKPOINT)
        extra = self.extra_state(final=final)
        with self._exported() if exported else nullcontext():
            if self.average is not None and not final:
                extra["weight_average"] = self.average.state_dict()
            save_with_extra(super().save_checkpoint, target, extra, log=self.print_to_log_file)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        # Ours first: nnU-Net's reading would run whatever a foreign file holds, ours refuses it.
        extra = load_extra(Path(filename_or_checkpoint), self.device)
        super().load_checkpoint(filename_or_checkpoint)
        count_steps_on_cpu(self.optimizer)
        if self.average is not None:
            self.average.restart()
            if "weight_average" in extra:
                self.average.load_state_dict(extra["weight_average"])
        self.load_extra_state(extra)

    # ---------------------------------------------------------------- the stored plans

    def store_settings(self, settings: Mapping[str, Any]) -> None:
        """Add settings to the plans that nnU-Net stores with the model when training starts."""
        self.configuration_manager.configuration[SETTINGS_KEY] = {
            **(self.configuration_manager.configuration.get(SETTINGS_KEY) or {}),
            **settings,
        }
        stored = self.plans_manager.plans["configurations"][self.configuration_name]
        stored[SETTINGS_KEY] = dict(self.configuration_manager.configuration[SETTINGS_KEY])


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without DDP and torch.compile around it."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def _keep_to_thread_limit(device: torch.device) -> None:
    """Let ``OMP_NUM_THREADS`` count on the CPU, where nnU-Net's command gives torch every core there is.

    Trainings side by side would else wait for each other's threads in every convolution.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if device.type == "cpu" and limit.isdecimal() and int(limit) > 0:
        torch.set_num_threads(int(limit))


def _seed_everything(seed: int, *context: int | str) -> None:
    """Seed Python, numpy and torch from ``seed`` and a context such as an epoch and a rank.

    Seeding anew for every epoch makes the state at an epoch's start independent of how the process got
    there, so nothing about random numbers has to be stored in checkpoints.
    """
    entropy = [seed, *(crc32(c.encode()) if isinstance(c, str) else c for c in context)]
    state = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))
