"""What a user may ask of the planner, checked before anything is read or built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nnunetv2_mstkd.environment import quiet
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods import defaults_of, known_settings
from nnunetv2_mstkd.methods.mstkd.transformer import TOKEN_PATCH_SIZES
from nnunetv2_mstkd.models.building import trainer_class
from nnunetv2_mstkd.settings import (
    MSTKD_PLANS,
    NETWORKS,
    PRESETS,
    TEACHERS,
    Setting,
    check_partners,
    parse_settings,
    teacher_of,
)

NNUNET_PLANS = "nnUNetPlans"
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")

_LONGEST_NAME = 100

# nnU-Net's cascade takes its geometry from 3d_fullres and its input from 3d_lowres.
_NEEDS = {"3d_cascade_fullres": ("3d_lowres", "3d_fullres")}
_GEOMETRY_OF = {"3d_cascade_fullres": "3d_fullres"}
# Settings that mean nothing without a finished model as the teacher.
_OF_A_MODEL = ("teacher", "teacher_fold", "teacher_checkpoint", "init_from_teacher")
_OF_STARTING_WEIGHTS = ("init", "init_fold", "init_checkpoint")


@dataclass(frozen=True)
class Template:
    """The network of a finished model, to be planned again as it is.

    Attributes:
        architecture: entry of a plans file.
        patch_size: voxels per axis that the model was planned with.
        batch_size: likewise.
    """

    architecture: Mapping[str, Any]
    patch_size: tuple[int, ...]
    batch_size: int


@dataclass(frozen=True)
class PlanOptions:
    """Overrides for one run of the planner; ``None`` or empty keeps the planner's own choice.

    Attributes:
        network: ``mstkdnet``, or ``plans`` for the network of nnU-Net's planner itself (baselines).
        preset: of MSTKDNet; without meaning for ``plans``.
        configurations: plan only these; empty plans all that nnU-Net plans for the data set.
        patch_size: voxels per axis in the axis order of the plans file; applies to the chosen
            configurations that have this number of axes.
        batch_size: patches per batch; the patch size is chosen so that this many fit.
        min_batch_size: like nnU-Net's ``UNet_min_batch_size`` (2).
        base_features: channels of the first stage, doubled at each stage.
        max_features: upper limit of the channels of a stage.
        max_stages: resolution stages of the network, the bottleneck included.
        token_patch: bottleneck voxels per token and axis, one number or one per axis; the weights of a
            network fit another patch size only with the same tokens.
        settings: trainer settings for the ``"mstkd"`` dict of each configuration.
        trainer: name of the trainer to plan for; its network, if it has one of its own, is what has to fit.
        template: network (and, at its own patch size, batch size) instead of what the planner would choose.
    """

    network: str = "mstkdnet"
    preset: str = "nnunet"
    configurations: tuple[str, ...] = ()
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    min_batch_size: int | None = None
    base_features: int | None = None
    max_features: int | None = None
    max_stages: int | None = None
    token_patch: tuple[int, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    trainer: str | None = None
    template: Template | None = None

    def __post_init__(self) -> None:
        _require(self.network in NETWORKS, f"unknown network '{self.network}'; known: {', '.join(NETWORKS)}")
        _require(self.preset in PRESETS, f"unknown preset '{self.preset}'; known: {', '.join(PRESETS)}")
        for name in self.configurations:
            known = ", ".join(CONFIGURATIONS)
            _require(name in CONFIGURATIONS, f"unknown configuration '{name}'; nnU-Net plans {known}")
        for flag in ("batch_size", "min_batch_size", "base_features", "max_features"):
            value = getattr(self, flag)
            text = f"--{flag.replace('_', '-')} {value} is not possible; give a whole number of at least 1"
            _require(value is None or value >= 1, text)
        _require(
            self.max_stages is None or self.max_stages >= 2,
            f"--max-stages {self.max_stages} is not possible; a network needs at least 2",
        )
        if self.batch_size is not None and self.min_batch_size is not None:
            text = f"--batch-size {self.batch_size} is below --min-batch-size {self.min_batch_size}"
            _require(self.batch_size >= self.min_batch_size, f"{text}; leave one of them out")
        if self.token_patch is not None:
            self._check_token_patch(self.token_patch)
        if self.preset == "official":
            self._check_official()
        _check_patch(self.patch_size, self.configurations)
        self._check_settings()

    def _check_settings(self) -> None:
        if self.trainer is None:
            known: Mapping[str, Setting] = known_settings()
            given = parse_settings(self.settings, known)
            check_partners(given, known, lambda n: [given[n]] if n in given else defaults_of(n))
            return
        known = getattr(self.trainer_class, "settings_read", dict)()
        given = parse_settings(self.settings, known, reader=self.trainer)
        own = self.trainer_class
        check_partners(given, known, lambda n: [given.get(n, getattr(own, known[n].attribute_for(n)))])
        _require(
            self.method is None or self.network == "plans",
            f"--trainer {self.trainer} has a network of its own; leave out --network mstkdnet",
        )

    @cached_property
    def trainer_class(self) -> Any:
        """The class that ``trainer`` names, as nnU-Net would find it; ``None`` if none is named."""
        return None if self.trainer is None else named_trainer(self.trainer)

    @property
    def method(self) -> Any:
        """That class if it builds a network of its own in place of the plan's."""
        return self.trainer_class if has_own_network(self.trainer_class) else None

    def _check_token_patch(self, given: tuple[int, ...]) -> None:
        text = f"--token-patch {' '.join(map(str, given))}"
        _require(self.network == "mstkdnet", f"{text} is of MSTKDNet; leave it out with --network plans")
        _require(
            len(given) in (1, 2, 3) and set(given).issubset(TOKEN_PATCH_SIZES),
            f"{text} is not possible; give 1, 2, 4 or 8, once or once per axis",
        )
        axes = {2 if name == "2d" else 3 for name in self.configurations} or {2, 3}
        chosen = ", ".join(self.configurations)
        _require(
            len(given) in {1, *axes}, f"{text} does not fit -c {chosen}; give one number, or one per axis"
        )

    def _check_official(self) -> None:
        _require(
            self.network == "mstkdnet", "--preset official is of MSTKDNet; leave it out with --network plans"
        )
        for flag in ("base_features", "max_features", "max_stages", "token_patch"):
            text = f"--{flag.replace('_', '-')} does not go with --preset official, the network as published"
            _require(getattr(self, flag) is None, text)

    def chosen(self, configuration: str) -> bool:
        """Whether this configuration is to be planned (also because a chosen one is built on it)."""
        needed = {need for name in self.configurations for need in _NEEDS.get(name, ())}
        return not self.configurations or configuration in {*self.configurations, *needed}

    def named(self, configuration: str) -> bool:
        """Whether this configuration itself was asked for, not only one that is built on it."""
        return not self.configurations or configuration in self.configurations

    def _shaped(self, configuration: str) -> bool:
        """Whether patch and network are meant for this one: a cascade has those of 3d_fullres."""
        geometries = {_GEOMETRY_OF.get(name) for name in self.configurations}
        return self.named(configuration) or configuration in geometries

    def patch_for(self, configuration: str, axes: int) -> tuple[int, ...] | None:
        """The given patch size if it is meant for this configuration, else ``None``."""
        if self.patch_size is None or len(self.patch_size) != axes or not self._shaped(configuration):
            return None
        return self.patch_size

    def template_for(self, configuration: str) -> Template | None:
        """The network to plan if it is meant for this configuration, else ``None``."""
        return self.template if self._shaped(configuration) else None

    def settings_for(self, configuration: str) -> dict[str, Any]:
        """The trainer settings of one configuration: a model serves only what it was named for."""
        if self.named(configuration):
            return dict(self.settings)
        taught = teacher_of(self.settings) not in TEACHERS
        elsewhere = (*_OF_STARTING_WEIGHTS, *(_OF_A_MODEL if taught else ()))
        return {key: value for key, value in self.settings.items() if key not in elsewhere}

    def token_patch_for(self, axes: int) -> tuple[int, ...] | None:
        """The given token patch, one number per axis, if it is meant for so many axes, else ``None``."""
        if self.token_patch is None or len(self.token_patch) not in (1, axes):
            return None
        return self.token_patch * (axes // len(self.token_patch))


def named_trainer(name: str) -> Any:
    """Return the class that nnU-Net finds under a trainer's name.

    Raises:
        MSTKDError: there is none.
    """
    try:
        with quiet():
            return trainer_class(name)
    except RuntimeError:
        raise MSTKDError(
            f"no trainer '{name}' is found; nnUNetv2_mstkd methods lists those of this plugin"
        ) from None


def has_own_network(trainer: Any) -> bool:
    """Whether a trainer builds a network of its own in place of the plan's."""
    return getattr(trainer, "network_class", None) is not None


def plans_name(network: str, name: str | None) -> str:
    """Name of the plans file to write (without ``.json``).

    Raises:
        MSTKDError: the name is nnU-Net's own, is needed and missing, or cannot be part of a model folder's
            name (``TRAINER__PLANS__CONFIGURATION``).
    """
    if name is None:
        _require(
            network == "mstkdnet",
            "--network plans needs a name for its plans file; give -overwrite_plans_name NAME",
        )
        return MSTKD_PLANS
    _require(
        name != NNUNET_PLANS,
        f"-overwrite_plans_name {NNUNET_PLANS} would overwrite nnU-Net's own plans; choose another name",
    )
    _require(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name) is not None and "__" not in name,
        f"-overwrite_plans_name '{name}' is not possible; use letters, digits, single '_'"
        " and, but for the beginning, '.' and '-'",
    )
    _require(
        len(name) <= _LONGEST_NAME,
        f"-overwrite_plans_name has {len(name)} characters; it becomes part of folder names, use at most"
        f" {_LONGEST_NAME}",
    )
    return name


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``["num_epochs=250", "teacher=joint"]``; values are JSON where they can be, else text.

    Of a key that comes twice the last counts, so that a script can add to a line of its own.

    Raises:
        MSTKDError: an entry has no ``=`` or no key.
    """
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        _require(bool(equals and key.strip()), f"--set '{assignment}' is not KEY=VALUE")
        try:
            parsed[key.strip()] = json.loads(text)
        except ValueError:
            parsed[key.strip()] = text
    return parsed


def _check_patch(patch_size: Sequence[int] | None, configurations: Sequence[str]) -> None:
    if patch_size is None:
        return
    given = "--patch-size " + " ".join(map(str, patch_size))
    _require(len(patch_size) in (2, 3), f"{given} has {len(patch_size)} axes; give 3, or 2 for 2d")
    _require(min(patch_size) >= 1, f"{given} is not possible; every axis must be at least 1 voxel")
    for name in configurations:
        axes = 2 if name == "2d" else 3
        _require(
            len(patch_size) == axes,
            f"{given} has {len(patch_size)} axes, but configuration {name} has {axes}",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MSTKDError(message)
