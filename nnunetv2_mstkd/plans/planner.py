"""nnU-Net's experiment planner, planning MSTKDNet or nnU-Net's own network with overrides.

The plugin's planner is a mix-in over any planner class of nnU-Net, so that target spacing, transposition,
normalisation, resampling, the search for a patch and the cascade are decided by nnU-Net's own code. What
differs: the network whose memory counts, where its stages end, the user's overrides, and how the file is
written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    ResEncUNetPlanner,
)
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunetv2_mstkd.environment import nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import channel_names
from nnunetv2_mstkd.plans.architecture import Preset, at_patch, for_network, stage_limit
from nnunetv2_mstkd.plans.memory import GIGABYTE, Memory, estimate_memory
from nnunetv2_mstkd.plans.options import PlanOptions, Template
from nnunetv2_mstkd.plans.saving import PLANNER_NAME, Saved, save
from nnunetv2_mstkd.plans.starting_weights import check_start
from nnunetv2_mstkd.plans.teacher import check_planned
from nnunetv2_mstkd.plans.topology import check_patch, round_up, truncate, with_topology

if TYPE_CHECKING:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner as _Mixed,
    )
else:
    _Mixed = object

_UNLIMITED = 999999  # nnU-Net's own value for "as many poolings as the patch allows"


@dataclass(frozen=True)
class _Configuration:
    """What the options mean for the configuration that nnU-Net's planner is at, for its calls back.

    Attributes:
        options: with patch and tokens only if they are meant for it.
        template: the network to plan, if one is meant for it.
    """

    options: PlanOptions
    template: Template | None = None

    @classmethod
    def of(cls, options: PlanOptions, name: str, axes: int) -> _Configuration:
        # nnU-Net plans all configurations, also those that are left out later: they may not fit the tokens.
        tokens = options.token_patch if options.chosen(name) else None
        meant = replace(options, patch_size=options.patch_for(name, axes), token_patch=tokens)
        return cls(meant, options.template_for(name))

    @property
    def patch(self) -> tuple[int, ...] | None:
        """The given patch size; ``None`` where nnU-Net searches for one."""
        return self.options.patch_size


class MSTKDPlannerMixin(_Mixed):
    """Overrides of nnU-Net's planner; :func:`planner_class` puts it before a planner class.

    Attributes:
        options: what the user asked for.
        memory: estimate per configuration, filled while planning.
        saved: what was written, once planned.
    """

    options: ClassVar[PlanOptions] = PlanOptions()
    UNet_base_num_features: int
    UNet_max_features_2d: int
    UNet_max_features_3d: int
    UNet_min_batch_size: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except AssertionError:
            # The one assertion there that checked arguments can still meet.
            differ = "splits_final.json of nnUNet_raw and of nnUNet_preprocessed differ"
            raise MSTKDError(f"{differ} for {args[0]}; remove one of them") from None
        self.memory: dict[str, Memory] = {}
        self.saved: Saved | None = None
        self.preset = Preset.of(self.options)
        self._running = _Configuration(self.options)
        base = self.options.base_features or self.preset.base_features
        self.UNet_base_num_features = base or self.UNet_base_num_features
        self.UNet_max_features_2d = self.options.max_features or self.UNet_max_features_2d
        self.UNet_max_features_3d = self.options.max_features or self.UNet_max_features_3d
        self.UNet_min_batch_size = self.options.min_batch_size or self.UNet_min_batch_size
        self._batch = self.options.batch_size
        if self._batch is None and self.options.min_batch_size is None:
            self._batch = self.preset.batch_size

    def determine_reader_writer(self) -> type:
        """nnU-Net's reader for the first training image.

        Raises:
            MSTKDError: no reader of nnU-Net can open it.
        """
        try:
            return super().determine_reader_writer()
        except RuntimeError as error:
            raise MSTKDError(str(error)) from None

    def generate_data_identifier(self, configuration_name: str) -> str:
        """A folder for each configuration; ``saving`` looks for one to share when all is planned."""
        return f"{self.plans_identifier}_{configuration_name}"

    def static_estimate_VRAM_usage(  # noqa: N802 - nnU-Net's name
        self,
        patch_size: Sequence[int],
        input_channels: int,
        output_channels: int,
        arch_class_name: str,
        arch_kwargs: Mapping[str, Any],
        arch_kwargs_req_import: Sequence[str],
    ) -> float:
        """Memory of one patch, in the unit in which nnU-Net's planner compares it with its reference.

        nnU-Net shrinks the patch as long as two patches (for residual encoders: as many as the reference
        batch has) exceed the target; the estimate is scaled so that this tests the wanted batch size.
        nnU-Net's own method, replaced here, sets torch's threads to ``nnUNet_n_proc_DA`` and fails at 0.
        """
        if self._running.patch is not None:
            return 1.0
        if arch_kwargs["n_stages"] < 2:  # the patch has shrunk to a few voxels
            raise MSTKDError(_no_patch_fits(self.UNet_vram_target_GB, self.options))
        architecture = {
            "network_class_name": arch_class_name,
            "arch_kwargs": arch_kwargs,
            "_kw_requires_import": arch_kwargs_req_import,
        }
        memory = self._estimate(architecture, patch_size, input_channels, output_channels)
        if memory.fixed_bytes >= self._target_bytes:
            raise MSTKDError(_weights_do_not_fit(memory, self.UNet_vram_target_GB))
        axes = len(patch_size)
        tested = self._reference_batch(axes) if isinstance(self, ResEncUNetPlanner) else 2
        wanted = self._batch or self.options.min_batch_size
        share = memory.share_of_patch(self._target_bytes) * (wanted or tested) / tested
        return share * self._reference(axes) * self._reference_batch(axes)

    def get_plans_for_configuration(
        self,
        spacing: np.ndarray,
        median_shape: np.ndarray,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, float],
    ) -> dict[str, Any]:
        """One configuration: nnU-Net's search, then this network's stages and the overrides."""
        name = data_identifier.removeprefix(f"{self.plans_identifier}_")
        self._running = _Configuration.of(self.options, name, len(spacing))
        given = self._running.patch
        # A skipped search must not leave its meaningless estimates to the other configurations.
        cache = _cache if given is None else {}
        clipped = self.preset.clip(median_shape)
        plan = super().get_plans_for_configuration(
            spacing, clipped, data_identifier, approximate_n_voxels_dataset, cache
        )
        plan["median_image_size_in_voxels"] = median_shape
        if given is not None:
            plan["architecture"] = self._with_patch(plan["architecture"], given, spacing, name)
            plan["patch_size"] = given
        patch = plan["patch_size"]
        memory = self._estimate(plan["architecture"], patch, self._channels, len(self.dataset_json["labels"]))
        plan["architecture"] = self._network(plan["architecture"], patch)
        plan["batch_size"] = self._batch_size(memory, patch, given, approximate_n_voxels_dataset)
        self.memory[name] = memory
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Write the file in one step, with shared data and trainer settings."""
        recursive_fix_for_json_export(plans)
        plans = {**json.loads(json.dumps(plans)), "experiment_planner_used": PLANNER_NAME}
        axes = {len(c["patch_size"]) for c in plans["configurations"].values() if "patch_size" in c}
        sizes = {"--patch-size": self.options.patch_size, "--token-patch": self.options.token_patch}
        for flag, numbers in sizes.items():
            if numbers is not None and len(numbers) not in {1, *axes}:
                given = f"{flag} {' '.join(map(str, numbers))} fits no configuration of {self.dataset_name}"
                raise MSTKDError(f"{given}, a data set of 2D images")
        named = [name for name in plans["configurations"] if self.options.named(name)]
        check_planned(plans, self.dataset_json, named, self.options.settings)
        check_start(plans, self.dataset_json, named, self.options)
        folder = nnunet_folder("nnUNet_preprocessed") / self.dataset_name
        self.saved = save(plans, folder, self.options, dict(self.preset.settings))

    @property
    def _channels(self) -> int:
        return len(channel_names(self.dataset_json))

    @property
    def _target_bytes(self) -> float:
        return self.UNet_vram_target_GB * GIGABYTE

    def _reference(self, axes: int) -> float:
        """nnU-Net's limit for the feature maps of one patch of its reference batch, at the target."""
        reference = self.UNet_reference_val_2d if axes == 2 else self.UNet_reference_val_3d
        return reference * self.UNet_vram_target_GB / self.UNet_reference_val_corresp_GB

    def _reference_batch(self, axes: int) -> int:
        return self.UNet_reference_val_corresp_bs_2d if axes == 2 else self.UNet_reference_val_corresp_bs_3d

    def _estimate(
        self, architecture: Mapping[str, Any], patch_size: Sequence[int], channels: int, outputs: int
    ) -> Memory:
        """Memory of training the network that this nnU-Net ``architecture`` becomes."""
        network = self._network(architecture, patch_size)
        axes = len(patch_size)
        element = self._target_bytes / (self._reference(axes) * self._reference_batch(axes))
        return estimate_memory(network, patch_size, channels, outputs, self.options, nnunet_bytes=element)

    def _network(self, architecture: Mapping[str, Any], patch_size: Sequence[int]) -> dict[str, Any]:
        """What a nnU-Net ``architecture`` becomes: the network of the options, or the template's."""
        if self._running.template is None:
            return for_network(architecture, patch_size, self._running.options)
        return at_patch(self._running.template.architecture, patch_size)

    def _with_patch(
        self, architecture: Mapping[str, Any], patch_size: Sequence[int], spacing: np.ndarray, name: str
    ) -> dict[str, Any]:
        """``architecture`` with the stages that nnU-Net's rules give for a patch that the user chose."""
        _, strides, kernels, _, _ = get_pool_and_conv_props(
            spacing, patch_size, self.UNet_featuremap_min_edge_length, _UNLIMITED
        )
        if len(strides) < 2:
            text = f"--patch-size {' '.join(map(str, patch_size))} leaves the network one resolution"
            raise MSTKDError(f"{text}; give a larger patch")
        most = self.UNet_max_features_2d if len(spacing) == 2 else self.UNet_max_features_3d
        features = [min(most, self.UNet_base_num_features * 2**i) for i in range(len(strides))]
        blocks = self.UNet_blocks_per_stage_encoder, self.UNet_blocks_per_stage_decoder
        kwargs = with_topology(architecture["arch_kwargs"], strides, kernels, features, blocks)
        used = truncate(kwargs, stage_limit(self.options))["strides"]
        if self._running.template is not None:
            used = strides = self._running.template.architecture["arch_kwargs"]["strides"]
        # nnU-Net pads to what all its stages need; a patch that it could choose is allowed here too.
        largest = round_up(self._largest_image(spacing).tolist(), strides)
        check_patch(patch_size, used, largest.tolist(), name)
        return {**architecture, "arch_kwargs": kwargs}

    def _largest_image(self, spacing: np.ndarray) -> np.ndarray:
        """Largest extent of the data set per axis, voxels at ``spacing`` (axis order of the plans)."""
        order = self.determine_transpose()[0][-len(spacing) :]
        shapes, spacings = (self.dataset_fingerprint[key] for key in ("shapes_after_crop", "spacings"))
        resampled = [
            compute_new_shape(np.take(shape, order), np.take(mm, order), spacing)
            for shape, mm in zip(shapes, spacings, strict=True)
        ]
        return np.max(resampled, axis=0)

    def _batch_size(
        self, memory: Memory, patch_size: Sequence[int], given: Sequence[int] | None, dataset_voxels: float
    ) -> int:
        """Patches that fit and do not cover too much of the data set, at least the smallest batch."""
        if self.options.batch_size is not None:
            return self.options.batch_size
        template = self._running.template
        if template and template.patch_size == tuple(patch_size) and self.options.min_batch_size is None:
            return template.batch_size
        fitting = memory.patches_within(self._target_bytes)
        smallest = self.UNet_min_batch_size
        if given is not None and fitting < smallest:
            if fitting < 1 or self.options.min_batch_size is not None:
                batch = self.options.min_batch_size or 1
                raise MSTKDError(_does_not_fit(given, batch, memory, self.UNet_vram_target_GB))
            smallest = 1
        if self._batch is not None:
            return self._batch
        covering = round(dataset_voxels * self.max_dataset_covered / np.prod(patch_size, dtype=np.float64))
        return max(min(fitting, covering), smallest)


def planner_class(base: type[ExperimentPlanner], options: PlanOptions) -> type[ExperimentPlanner]:
    """``base`` with this plugin's overrides in front of it, for one set of options."""
    return type(PLANNER_NAME, (MSTKDPlannerMixin, base), {"options": options})


def _weights_do_not_fit(memory: Memory, target_gb: float) -> str:
    needed = memory.fixed_bytes / GIGABYTE
    return (
        f"-gpu_memory_target {target_gb:g} is too small for any patch: the networks' weights and the"
        f" optimizer take about {needed:.1f} GB"
    )


def _no_patch_fits(target_gb: float, options: PlanOptions) -> str:
    target = f"-gpu_memory_target {target_gb:g} is too small for any patch of this network"
    given = {"--batch-size": options.batch_size, "--min-batch-size": options.min_batch_size}
    asked = [f"{flag} {value}" for flag, value in given.items() if value is not None]
    return f"{target} with {asked[0]}; lower that, or raise the target" if asked else f"{target}; raise it"


def _does_not_fit(patch_size: Sequence[int], batch_size: int, memory: Memory, target_gb: float) -> str:
    patch, needed = " ".join(map(str, patch_size)), memory.total_bytes(batch_size) / GIGABYTE
    return (
        f"--patch-size {patch} with batch size {batch_size} needs about {needed:.1f} GB, more than"
        f" -gpu_memory_target {target_gb:g}; choose a smaller patch or a larger target"
    )
