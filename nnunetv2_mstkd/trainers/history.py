"""Per-epoch values beyond nnU-Net's own logger, kept in checkpoints and plotted beside progress.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nnunetv2_mstkd.files import atomic_path

PLOT_NAME = "distillation.png"
# Groups whose members differ by orders of magnitude.
LOG_SCALED = ("terms", "gradient share")


def epoch_means(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean of each named scalar over the steps that have it, and over the processes of a distributed run."""
    names = dict.fromkeys(name for terms in steps for name in terms)
    means = {
        name: float(torch.stack([terms[name].float() for terms in steps if name in terms]).mean())
        for name in names
    }
    if not (dist.is_available() and dist.is_initialized()):
        return means
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, means)
    return {name: float(np.mean([m[name] for m in gathered if name in m])) for name in means}


class TermHistory:
    """One dict of named values per epoch.

    nnU-Net's logger takes a fixed set of keys and cuts its plot to the shortest of them, so anything else
    is kept here.
    """

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, float]] = {}

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add values to an epoch (again: replaces those of the same name)."""
        self.epochs.setdefault(epoch, {}).update({name: float(v) for name, v in values.items()})

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Epochs and values of one name, where it was logged and finite."""
        points = [
            (e, v[name]) for e, v in sorted(self.epochs.items()) if math.isfinite(v.get(name, math.nan))
        ]
        return [e for e, _ in points], [v for _, v in points]

    def names(self) -> list[str]:
        """Every name ever logged, in order of first appearance."""
        return list(dict.fromkeys(name for _, values in sorted(self.epochs.items()) for name in values))

    def state_dict(self) -> dict[str, Any]:
        """Plain dict for a checkpoint."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.epochs = {int(e): dict(v) for e, v in state["epochs"].items()}

    def plot(self, folder: Path) -> None:
        """Draw ``distillation.png``: each group of names (before the slash) in a panel of its own."""
        groups: dict[str, list[str]] = {}
        for name in self.names():
            groups.setdefault(name.split("/", 1)[0], []).append(name)
        if not groups:
            return
        import matplotlib.style

        # nnU-Net's own plot changes matplotlib's settings for the whole process (seaborn, huge fonts).
        with matplotlib.style.context("default", after_reset=True), atomic_path(folder / PLOT_NAME) as file:
            self._figure(groups).savefig(file, dpi=110, format="png")

    def _figure(self, groups: Mapping[str, list[str]]) -> Any:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 2.8 * len(groups)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
        for axis, (group, names) in zip(axes, groups.items(), strict=True):
            for name in names:
                epochs, values = self.series(name)
                marker = "." if len(epochs) < 30 else None
                axis.plot(epochs, values, marker=marker, label=name.split("/", 1)[-1])
            positive = all(value > 0 for name in names for value in self.series(name)[1])
            scale = "log" if positive and group in LOG_SCALED else "linear"
            axis.set(title=group, xlabel="epoch", yscale=scale)
            axis.grid(alpha=0.3)
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure
