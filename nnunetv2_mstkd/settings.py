"""Trainer settings that a plans file may carry: the ``"mstkd"`` dict inside a configuration.

nnU-Net stores the plans with every model, so what is set there is known for ever. A setting left out
keeps the trainer's class attribute of the same name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError

SETTINGS_KEY = "mstkd"
TEACHERS = ("warm_start", "joint", "shared")
SAMPLERS = ("uniform", "bernoulli", "by_count", "weights")
OPTIMIZERS = ("sgd", "adamw")
PRESETS = ("nnunet", "official")
# Settings whose name is taken by an attribute of nnU-Net's trainer.
ATTRIBUTE_OF = {"optimizer": "optimizer_name", "weights": "term_weights"}

ON_INCOMPLETE = ("use", "skip")

_Check = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    """A finite one: Python reads NaN and Infinity from JSON, and whole numbers too long for a float."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def _are_probabilities(values: list[Any]) -> bool:
    return bool(values) and all(_is_number(p) and 0 < p <= 1 for p in values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _setting(what: str, accepts: Callable[[Any], bool]) -> Any:
    return field(default=None, metadata={"check": (what, accepts)})


def _one_of(names: tuple[str, ...]) -> Any:
    return _setting(f"one of {', '.join(names)}", lambda v: v in names)


def _is_teacher(value: Any) -> bool:
    """One of the names, or what can only be meant as a folder: a mistyped name is neither."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value in TEACHERS or "/" in value or "\\" in value or Path(value).is_dir()


def _positive_int() -> Any:
    return _setting("a whole number of at least 1", lambda v: _is_int(v) and v >= 1)


def _positive() -> Any:
    return _setting("a finite number above 0", lambda v: _is_number(v) and v > 0)


def _non_negative() -> Any:
    return _setting("a finite number of at least 0", lambda v: _is_number(v) and v >= 0)


def _true_or_false() -> Any:
    return _setting("true or false", lambda v: isinstance(v, bool))


def _weights_by_name() -> Any:
    def accepts(value: Any) -> bool:
        return isinstance(value, Mapping) and all(_is_number(v) and v >= 0 for v in value.values())

    return _setting("a dict of names to finite numbers of at least 0", accepts)


@dataclass(frozen=True)
class Settings:
    """Everything a ``"mstkd"`` dict may hold; ``None`` means not given.

    Attributes:
        num_epochs: epochs in all, the full-modality phase included.
        num_iterations_per_epoch: training steps per epoch.
        num_val_iterations_per_epoch: online-validation steps per epoch.
        save_every: epochs between two ``checkpoint_latest.pth``.
        seed: seeds every epoch from (seed, epoch, rank), so that a continued run repeats an uninterrupted
            one (exactly with single-process loading, ``nnUNet_n_proc_DA=0``).
        initial_lr: learning rate at the start.
        lr_restart: share of it at which masking starts after a full-modality phase; 0 is no restart but one
            decay over both phases.
        weight_decay: of the student's optimizer.
        optimizer: ``sgd`` (nnU-Net's: momentum 0.99, Nesterov) or ``adamw``.
        enable_deep_supervision: losses on the lower-resolution outputs too.
        full_phase: share of ``num_epochs`` that trains on all modalities before masking starts, in [0, 1).
        sampler: which subset a training patch keeps (see ``transforms.subset_samplers``).
        keep_probability: for ``bernoulli``: one number, or a dict of modality names to numbers.
        subset_weights: for ``weights``: ``{"t1c+t2f": 2.0, ...}``.
        teacher: where the teacher comes from: ``warm_start`` (a frozen copy of the network after its
            full-modality phase), ``joint`` (a second network that learns too), ``shared`` (the network itself
            on the whole patch), or the folder of a finished model.
        teacher_fold: of that model; by default the fold that is trained.
        teacher_checkpoint: of that fold; by default checkpoint_final.pth.
        init_from_teacher: start from that model's weights wherever names and shapes agree.
        teacher_on_incomplete: whether the student learns from the teacher in cases that lack modalities
            (``use``), or from the segmentation alone (``skip``).
        preset: of MSTKDNet, when the plans name another network.
        weights: weights of single objective terms, by name.
        terms_off: written by training: terms that it switched off, and why.
        gradient_shares_every: iterations between two measurements of the terms' gradient shares; 0 is never.
    """

    num_epochs: int | None = _positive_int()
    num_iterations_per_epoch: int | None = _positive_int()
    num_val_iterations_per_epoch: int | None = _positive_int()
    save_every: int | None = _positive_int()
    seed: int | None = _setting("a whole number of at least 0", lambda v: _is_int(v) and v >= 0)
    initial_lr: float | None = _positive()
    lr_restart: float | None = _setting("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
    weight_decay: float | None = _non_negative()
    optimizer: str | None = _one_of(OPTIMIZERS)
    enable_deep_supervision: bool | None = _true_or_false()
    full_phase: float | None = _setting("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
    sampler: str | None = _one_of(SAMPLERS)
    keep_probability: float | Mapping[str, float] | None = _setting(
        "a number above 0 and up to 1, or a dict of modality names to such numbers",
        lambda v: _are_probabilities(list(v.values()) if isinstance(v, Mapping) else [v]),
    )
    subset_weights: Mapping[str, float] | None = _weights_by_name()
    teacher: str | None = _setting(f"one of {', '.join(TEACHERS)}, or a model folder", _is_teacher)
    teacher_fold: int | str | None = _setting(
        "a fold number or 'all'", lambda v: v == "all" or (_is_int(v) and v >= 0)
    )
    teacher_checkpoint: str | None = _setting(
        "the name of a .pth file", lambda v: isinstance(v, str) and v.endswith(".pth") and "/" not in v
    )
    init_from_teacher: bool | None = _true_or_false()
    teacher_on_incomplete: str | None = _one_of(ON_INCOMPLETE)
    preset: str | None = _one_of(PRESETS)
    weights: Mapping[str, float] | None = _weights_by_name()
    terms_off: Mapping[str, str] | None = _setting(
        "a dict of terms to reasons", lambda v: isinstance(v, Mapping)
    )
    gradient_shares_every: int | None = _setting(
        "a whole number of at least 0", lambda v: _is_int(v) and v >= 0
    )

    def given(self) -> dict[str, Any]:
        """The settings that were given, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def parse_settings(mapping: Mapping[str, Any] | None) -> Settings:
    """Check a ``"mstkd"`` dict and return it as :class:`Settings` (empty for ``None``).

    Raises:
        MSTKDError: an unknown key (the message lists the known ones) or a value out of range.
    """
    if mapping is None:
        return Settings()
    if not isinstance(mapping, Mapping):
        raise MSTKDError(f"'{SETTINGS_KEY}' in the plans must be a dict, not {mapping!r}")
    checks: dict[str, _Check] = {f.name: f.metadata["check"] for f in fields(Settings)}
    for key, value in mapping.items():
        if key not in checks:
            raise MSTKDError(
                f"unknown setting '{key}' in '{SETTINGS_KEY}' of the plans; known: {', '.join(checks)}"
            )
        what, accepts = checks[key]
        if value is not None and not accepts(value):
            raise MSTKDError(
                f"setting '{key}' in '{SETTINGS_KEY}' of the plans is {value!r}; it must be {what}"
            )
    return Settings(**mapping)
