"""The networks of the benchmark: what the plugin's planner would make of a patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.plans import mstkd_architecture

CLASSES = 3  # BraTS regions


@dataclass(frozen=True)
class Configuration:
    """One network and its input.

    Attributes:
        patch: voxels per axis, 2 or 3 axes.
        modalities: input channels.
        token_patch: bottleneck voxels per token and axis; ``None`` is what the planner takes.
    """

    patch: tuple[int, ...]
    modalities: int = 4
    token_patch: int | None = None

    @property
    def architecture(self) -> dict[str, Any]:
        """The ``architecture`` entry of its plans."""
        return mstkd_architecture(self.patch, token_patch=self.token_patch)
