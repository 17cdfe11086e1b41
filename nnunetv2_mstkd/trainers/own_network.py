"""A trainer whose method brings a network of its own, in the place of the one that the plans name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunetv2_mstkd.architectures.borrowing import borrow_features
from nnunetv2_mstkd.architectures.conditioning import ConditionedNorm, condition_on_absence
from nnunetv2_mstkd.architectures.lenders import lenders_by_name
from nnunetv2_mstkd.architectures.starting_weights import put_into
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import dataset_modalities
from nnunetv2_mstkd.settings import (
    SETTINGS_KEY,
    Setting,
    are_names,
    lists_by_name,
    non_negative,
    one_of,
    true_or_false,
    whole_number,
)
from nnunetv2_mstkd.trainers.base import nnUNetTrainerFromPlans, unwrap

NO_CONDITIONING, ABSENCE = CONDITIONINGS = ("none", "absence")
NO_BORROWING, STEM = BORROWINGS = ("none", "stem")


class nnUNetTrainerOwnNetwork(nnUNetTrainerFromPlans):
    """Builds ``network_class`` in the shape of the plan, wherever nnU-Net would build the plan's network.

    Settings, where the network is nnU-Net's or MSTKDNet:
        conditioning: ``absence`` tells every norm which modalities are absent, see
            :func:`condition_on_absence`; ``none`` by default, where the trainer says no other.
        borrowing: ``stem`` adds features of present modalities, in the place of those of absent ones, to what
            the first convolution makes of its input, see :func:`borrow_features`; ``none`` by default.
        expression_weight: of the loss that teaches what is lent, see :func:`learn_to_lend`.

    Settings, where the network lends features of one modality to another:
        lenders: for some modalities, by name, those that lend to it, the best first; see
            :func:`lenders_by_name`.
        modalities: written by training: the names in channel order.

    Attributes of the class:
        network_class: takes ``(input_channels, num_classes, *, patch_size, strides, ...)``. It may take
            ``regions``: whether heads are regions; ``kernel_sizes``: of the plan; ``modalities`` and
            ``lenders``: names; ``deep_supervision``: it has an output for every stage of the plan but the
            last, and ``decoder.deep_supervision``. ``None`` is the plan's own network.
        network_settings: settings of the plans that are arguments of ``network_class``.
    """

    network_class: ClassVar[type[nn.Module] | None] = None
    network_settings: ClassVar[Mapping[str, Setting]] = {"base_features": whole_number(1)}
    conditioning: str = NO_CONDITIONING
    borrowing: str = NO_BORROWING
    expression_weight: float = 0.5
    lenders: Mapping[str, Sequence[str]] | None = None

    @classmethod
    def settings_read(cls) -> dict[str, Setting]:
        read = super().settings_read()
        if cls.network_class is not None:
            read |= cls.network_settings
        else:
            read["conditioning"] = one_of(CONDITIONINGS)
            read["borrowing"] = one_of(BORROWINGS)
            read["expression_weight"] = non_negative().only_with("borrowing", STEM)
        # Those of the network's that training writes: they are known from the data set, not from the plans.
        if cls._network_takes("regions"):
            read["regions"] = true_or_false()
        if cls.network_class is None or cls._network_takes("lenders"):
            read |= {"lenders": lists_by_name(), "modalities": Setting("a list of names", are_names)}
        return read

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network of :meth:`network_of_plan`, with what the plans say that it does about absence."""
        network = cls.network_of_plan(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        settings = configuration_manager.configuration.get(SETTINGS_KEY) or {}
        if settings.get("borrowing") == STEM:
            # Training writes the names; who plans has none, and the sizes do not depend on them.
            number = len(configuration_manager.normalization_schemes)
            names = settings.get("modalities") or [f"channel {channel}" for channel in range(number)]
            lenders = lenders_by_name(names, settings.get("lenders") if settings.get("modalities") else None)
            borrow_features(network, lenders, (2, num_input_channels, *configuration_manager.patch_size))
        if settings.get("conditioning", cls.conditioning) == ABSENCE:
            # Channels of a cascade's previous stage have none.
            condition_on_absence(network, len(configuration_manager.normalization_schemes))
        return network

    @classmethod
    def network_of_plan(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """The method's network in the shape of the plan, or the plan's own."""
        if cls.network_class is None:
            return nnUNetTrainer.build_network_architecture(
                plans_manager,
                configuration_manager,
                num_input_channels,
                num_output_channels,
                enable_deep_supervision,
            )
        arguments = cls.network_arguments(configuration_manager)
        if cls._network_takes("deep_supervision"):
            arguments["deep_supervision"] = enable_deep_supervision
        return cls.network_class(num_input_channels, num_output_channels, **arguments)

    @classmethod
    def network_arguments(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        """Keyword arguments of ``network_class``: the plan's shape, and its settings of the network."""
        patch, settings = configuration.patch_size, configuration.configuration.get(SETTINGS_KEY) or {}
        strides = configuration.network_arch_init_kwargs["strides"]
        per_axis = [list(s) if isinstance(s, (list, tuple)) else [s] * len(patch) for s in strides]
        own = {name: settings[name] for name in cls.network_settings if settings.get(name) is not None}
        if cls._network_takes("regions"):
            own["regions"] = bool(settings.get("regions"))
        if cls._network_takes("kernel_sizes"):
            own["kernel_sizes"] = configuration.network_arch_init_kwargs.get("kernel_sizes")
        if cls._network_takes("lenders"):
            own |= {name: settings.get(name) for name in ("modalities", "lenders")}
        return {"patch_size": list(patch), "strides": per_axis, **own}

    @classmethod
    def _network_takes(cls, argument: str) -> bool:
        return cls.network_class is not None and argument in signature(cls.network_class).parameters

    def new_network(self) -> nn.Module:
        """Another network like the one that is trained, with its starting weights, on the device."""
        network = self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)
        self.leave_out_unused_heads(network)
        if self.start is not None:
            put_into(network, self.start.values)
        return network

    def build_beside(self) -> None:
        super().build_beside()
        norms = (m for m in unwrap(self.network).modules() if isinstance(m, ConditionedNorm))
        if self.is_ddp and any(isinstance(norm, _BatchNorm) for norm in norms):
            raise MSTKDError(
                "conditioning 'absence' is lost on batch norms with -num_gpus, where nnU-Net replaces them;"
                " train on one GPU, or plan instance norms"
            )

    def initialize(self) -> None:
        if self.network_class is not None:
            self._check_plans()
            if not self._network_takes("deep_supervision"):
                # There are no lower-resolution outputs that nnU-Net could supervise.
                self.enable_deep_supervision = False
        # Whoever builds the network for prediction has the plans, but neither labels nor names.
        if self._network_takes("regions"):
            self.store_settings({"regions": self.label_manager.has_regions})
        if self._network_takes("lenders") or self.borrowing == STEM:
            self._store_lenders()
        elif self.lenders is not None:
            raise MSTKDError(
                f"the plans have lenders for {', '.join(self.lenders)}, but their setting 'borrowing' is"
                f" '{self.borrowing}'; set it to '{STEM}', or leave 'lenders' out"
            )
        super().initialize()

    def _store_lenders(self) -> None:
        names = dataset_modalities(self.dataset_json)
        self.store_settings({"modalities": list(names), "lenders": lenders_by_name(names, self.lenders)})

    def _check_plans(self) -> None:
        """Refuse what nnU-Net's own networks can do and a method's cannot."""
        name = type(self).__name__
        if self.is_cascaded:
            raise MSTKDError(
                f"the network of {name} has no place for the segmentation of a cascade's previous stage;"
                f" train 3d_fullres, or {self.configuration_name} with nnUNetTrainerConditionedDropout"
            )
        if self.settings.get("enable_deep_supervision") and not self._network_takes("deep_supervision"):
            raise MSTKDError(
                f"{name} has no lower-resolution outputs for nnU-Net's deep supervision; set"
                " enable_deep_supervision to false, or leave it out"
            )
