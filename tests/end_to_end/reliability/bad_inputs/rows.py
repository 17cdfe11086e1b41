"""A row of the table of bad inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BadInput:
    """One row.

    Attributes:
        command: sub-command whose good call is spoilt.
        what: what is wrong, for people.
        says: part of what is printed.
        flags: flags to change; ``None`` takes one away, ``""`` is a flag without a value.
        spoil: makes the place bad.
        unset: an environment variable to remove.
        of_a_case: the fault is of one case: ``convert`` adds a line with the number of bad cases.
    """

    command: str
    what: str
    says: str
    flags: Mapping[str, str | None] = field(default_factory=dict)
    spoil: Callable[[Path], object] | None = None
    unset: str | None = None
    of_a_case: bool = False

    @property
    def name(self) -> str:
        return f"{self.command}: {self.what}"


def call(command: str, what: str, says: str, flags: Mapping[str, str | None], **more: Any) -> BadInput:
    return BadInput(command, what, says, flags, **more)


def place(command: str, what: str, says: str, spoil: Callable[[Path], object], **flags: str) -> BadInput:
    return BadInput(command, what, says, {f"-{key}": value for key, value in flags.items()}, spoil)
