"""Trainer settings that a plans file may carry: the ``"mstkd"`` dict inside a configuration.

nnU-Net stores the plans with every model, so what is set there is known for ever. A trainer states the
settings that it reads (``own_settings`` of its class and of its bases); a setting left out keeps the
trainer's class attribute of the same name. This module has the words to state them with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError

SETTINGS_KEY = "mstkd"
WARM_START, JOINT, SHARED, NESTED = TEACHERS = ("warm_start", "joint", "shared", "nested")
PRESETS = ("nnunet", "official")
NETWORKS = ("mstkdnet", "plans")
# The plans file that ``plan`` writes and the trainer of the model that other commands take, unless told
# otherwise: docs/benchmarks.md recommends them together.
MSTKD_PLANS = "nnUNetMSTKDPlans"
DEFAULT_TRAINER = "nnUNetTrainerConditionedDropout"


@dataclass(frozen=True)
class Setting:
    """One key of the ``"mstkd"`` dict.

    Attributes:
        what: the values that it takes, in words, for errors.
        accepts: whether a value, as JSON gives it, is one of them.
        attribute: of the trainer, where nnU-Net's trainer uses the setting's own name for something else.
        partner: another setting without which this one has no effect.
    """

    what: str
    accepts: Callable[[Any], bool]
    attribute: str | None = None
    partner: Partner | None = None

    def attribute_for(self, name: str) -> str:
        """Attribute of the trainer that holds this setting, which the plans call ``name``."""
        return self.attribute or name

    def only_with(self, name: str, *values: str) -> Setting:
        """This setting, where it has an effect only if another is one of some values."""
        words = f"'{values[0]}'" if len(values) == 1 else f"one of {', '.join(values)}"
        return replace(self, partner=Partner(name, words, lambda value: value in values))

    def only_with_a_model(self, name: str) -> Setting:
        """This setting, where it has an effect only if another names a model."""
        names_one = partial(_names_a_model, name)
        return replace(self, partner=Partner(name, "a model", names_one))


@dataclass(frozen=True)
class Partner:
    """A setting that gives another one its effect.

    Attributes:
        name: of it.
        what: the values with which it does, in words.
        fits: whether a value is one of them.
    """

    name: str
    what: str
    fits: Callable[[Any], bool]


def _names_a_model(name: str, value: Any) -> bool:
    return bool(value) and (name != "teacher" or value not in TEACHERS)


def is_number(value: Any) -> bool:
    """A finite one: Python reads NaN and Infinity from JSON, and whole numbers too long for a float."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    )


def is_whole(value: Any) -> bool:
    """A whole number; ``true`` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(names: Iterable[str], attribute: str | None = None) -> Setting:
    """One of some names."""
    known = tuple(names)
    return Setting(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known, attribute)


def whole_number(least: int) -> Setting:
    """A whole number from ``least`` on."""
    return Setting(f"a whole number of at least {least}", lambda v: is_whole(v) and v >= least)


def positive() -> Setting:
    """A number above 0."""
    return Setting("a finite number above 0", lambda v: is_number(v) and v > 0)


def non_negative() -> Setting:
    """A number from 0 on."""
    return Setting("a finite number of at least 0", lambda v: is_number(v) and v >= 0)


def true_or_false() -> Setting:
    """A switch."""
    return Setting("true or false", lambda v: isinstance(v, bool))


def fold_of_a_model() -> Setting:
    """A fold of a finished model."""
    return Setting("a fold number or 'all'", lambda v: v == "all" or (is_whole(v) and v >= 0))


def checkpoint_name() -> Setting:
    """The name of a checkpoint in a fold's folder."""
    return Setting(
        "the name of a .pth file", lambda v: isinstance(v, str) and v.endswith(".pth") and "/" not in v
    )


def weights_by_name(attribute: str | None = None) -> Setting:
    """A number from 0 on for each of some names."""

    def accepts(value: Any) -> bool:
        return isinstance(value, Mapping) and all(is_number(v) and v >= 0 for v in value.values())

    return Setting("a dict of names to finite numbers of at least 0", accepts, attribute)


def are_names(value: Any) -> bool:
    """A list of strings."""
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
    )


def lists_by_name() -> Setting:
    """A list of names for each of some names."""
    return Setting(
        "a dict of names to lists of names",
        lambda v: isinstance(v, Mapping) and all(are_names(names) for names in v.values()),
    )


def parse_settings(
    mapping: Mapping[str, Any] | None, known: Mapping[str, Setting], reader: str | None = None
) -> dict[str, Any]:
    """Check a ``"mstkd"`` dict and return what it gives; ``None`` values count as left out.

    Args:
        mapping: the dict; ``None`` is an empty one.
        known: settings by name.
        reader: name of the trainer that reads no others; without, those are all that there are.

    Raises:
        MSTKDError: an unknown key (the message lists the known ones) or a value out of range.
    """
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise MSTKDError(f"'{SETTINGS_KEY}' in the plans must be a dict, not {mapping!r}")
    for key, value in mapping.items():
        if key not in known:
            raise MSTKDError(_unknown(key, known, reader))
        if value is not None and not known[key].accepts(value):
            raise MSTKDError(
                f"setting '{key}' in '{SETTINGS_KEY}' of the plans is {value!r}; it must be {known[key].what}"
            )
    return {key: value for key, value in mapping.items() if value is not None}


def check_partners(
    given: Iterable[str], known: Mapping[str, Setting], values_of: Callable[[str], Iterable[Any]]
) -> None:
    """See that every setting has an effect.

    Args:
        given: names of settings.
        known: settings by name.
        values_of: values that a setting of some name may have in the training.

    Raises:
        MSTKDError: a setting has none, because another one has the wrong value.
    """
    for key in given:
        partner = known[key].partner
        if partner is None:
            continue
        values = list(values_of(partner.name))
        if not any(map(partner.fits, values)):
            there = f"is {values[0]!r}" if values and values[0] else "is not set"
            raise MSTKDError(
                f"setting '{key}' in '{SETTINGS_KEY}' of the plans has no effect while '{partner.name}'"
                f" {there}; set '{partner.name}' to {partner.what}, or leave '{key}' out"
            )


def _unknown(key: str, known: Mapping[str, Setting], reader: str | None) -> str:
    names = ", ".join(known)
    if reader is None:
        return f"unknown setting '{key}' in '{SETTINGS_KEY}' of the plans; known: {names}"
    return (
        f"{reader} does not read the setting '{key}' in '{SETTINGS_KEY}' of the plans; plan without it, or"
        f" train with a trainer that reads it. This one reads: {names}"
    )


def teacher_of(settings: Mapping[str, Any], default: str = WARM_START) -> str:
    """The ``teacher`` setting in force: one of :data:`TEACHERS`, or the folder of a finished model."""
    return str(settings.get("teacher", default))
