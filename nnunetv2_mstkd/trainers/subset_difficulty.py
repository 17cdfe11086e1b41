"""Which subsets the training should draw more often: those whose Dice in online validation lags behind."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.schedules import linear_rampup
from nnunetv2_mstkd.modalities import Subset, format_subset, parse_subset
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY
from nnunetv2_mstkd.transforms.subset_samplers import DifficultySampler, SubsetSampler

_KEPT = 0.9  # of the running Dice in an epoch, as in nnU-Net's own moving average
# Shares of the masking phase.
_FIRST_LOOK = 0.1
_RAMP = 0.2


class SubsetDifficulty:
    """Follows the Dice of every subset, and tells a sampler how hard each is.

    With a reference, a subset is as hard as its running Dice lies below that reference, at least 0: what
    could still be gained. Without one, it is as hard as its distance to the full set has grown since the
    first tenth of the masking phase (or since it was first seen): what does not improve. Subsets of which
    nothing is known yet are neither favoured nor avoided. The sampler begins as it would be without this; the
    scores count in full after a fifth of the phase.

    Args:
        sampler: told after every epoch.
        modalities: names in channel order.
        reference: Dice in [0, 1] that each subset could reach; may name some subsets only.
    """

    def __init__(
        self,
        sampler: DifficultySampler,
        modalities: tuple[str, ...],
        reference: Mapping[Subset, float] | None = None,
    ) -> None:
        self.sampler, self.modalities = sampler, modalities
        self.reference = reference
        self.running: dict[Subset, float] = {}
        self.gaps: dict[Subset, float] = {}
        self.first_gaps: dict[Subset, float] = {}

    def update(self, dice: Mapping[Subset, float], progress: float) -> None:
        """Take in the validation of an epoch.

        Args:
            dice: of the subsets that were seen; nan where nothing was to be found.
            progress: share of the masking phase that is done.
        """
        seen = {subset: value for subset, value in dice.items() if isfinite(value)}
        _follow(self.running, seen)
        full = seen.get(frozenset(self.modalities))
        if full is not None:
            # Both of one epoch: a subset that was not seen for a while must not count as left behind.
            _follow(self.gaps, {subset: full - value for subset, value in seen.items()})
            if progress >= _FIRST_LOOK:
                for subset in seen:
                    self.first_gaps.setdefault(subset, self.gaps[subset])
        self.sampler.favour(self._scores(), linear_rampup(progress, _RAMP))

    def redrawn(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of the loader with masks by difficulty, of which the loader's processes know nothing."""
        drawn = [self.sampler.sample(flags) for flags in batch[BATCH_AVAILABLE_KEY].numpy()]
        return {**batch, MASK_KEY: torch.from_numpy(np.stack(drawn)).float()}

    def _scores(self) -> NDArray[np.float64]:
        """Difficulty of the sampler's subsets (S,), nan where unknown."""
        if self.reference is None:
            known = {s: self.gaps[s] - first for s, first in self.first_gaps.items()}
        else:
            known = {
                s: max(0.0, best - self.running[s]) for s, best in self.reference.items() if s in self.running
            }
        return np.array([known.get(subset, np.nan) for subset in self._subsets()])

    def _subsets(self) -> list[Subset]:
        rows = self.sampler.masks.tolist()
        return [frozenset(m for m, kept in zip(self.modalities, row, strict=True) if kept) for row in rows]

    @property
    def probabilities(self) -> dict[str, float]:
        """How likely each subset is to be drawn, for a case that has everything."""
        shares = self.sampler.weights / self.sampler.weights.sum()
        names = [format_subset(subset, self.modalities) for subset in self._subsets()]
        return dict(zip(names, shares.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints that a training continues from."""

        def named(values: Mapping[Subset, float]) -> dict[str, float]:
            return {format_subset(subset, self.modalities): value for subset, value in values.items()}

        return {
            "running": named(self.running),
            "gaps": named(self.gaps),
            "first_gaps": named(self.first_gaps),
            "probabilities": self.probabilities,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""

        def by_subset(values: Mapping[str, float]) -> dict[Subset, float]:
            return {parse_subset(text, self.modalities): value for text, value in values.items()}

        self.running, self.gaps = by_subset(state["running"]), by_subset(state["gaps"])
        self.first_gaps = by_subset(state["first_gaps"])
        shares = by_subset(state["probabilities"])
        self.sampler.weights = np.array([shares[subset] for subset in self._subsets()])


def _follow(running: dict[Subset, float], seen: Mapping[Subset, float]) -> None:
    """Update running means by the values of an epoch; the first value of a subset is its mean."""
    for subset, value in seen.items():
        running[subset] = _KEPT * running.get(subset, value) + (1 - _KEPT) * value


def followed(
    sampler: SubsetSampler, modalities: tuple[str, ...], reference: Mapping[str, float] | None
) -> SubsetDifficulty | None:
    """What tells a sampler how hard the subsets are, if it asks.

    Args:
        sampler: of the training.
        modalities: names in channel order.
        reference: the setting ``reference_dice``, subset text to Dice.

    Raises:
        MSTKDError: an unknown modality, or a subset named twice.
    """
    if not isinstance(sampler, DifficultySampler):
        return None
    known = {parse_subset(text, modalities): float(dice) for text, dice in (reference or {}).items()}
    if len(known) < len(reference or {}):
        raise MSTKDError(f"reference_dice names a subset twice: {', '.join(reference or {})}")
    return SubsetDifficulty(sampler, modalities, known or None)
