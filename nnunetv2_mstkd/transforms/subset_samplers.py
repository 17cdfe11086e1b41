"""Which modalities a training patch keeps: distributions over non-empty subsets.

A sampler draws from numpy's global generator, as every batchgenerators transform does: nnU-Net's loader
seeds it separately in each worker process, which makes the draws independent across workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import all_subsets, parse_subset, resolve, subset_mask

Mask = NDArray[np.bool_]
SAMPLERS = ("uniform", "bernoulli", "by_count", "weights", "difficulty")
# How far the difficulty may move a subset's probability.
_RAREST, _MOST_OFTEN = 0.5, 2.0
# A spread of difficulties below this is rounding.
_NO_SPREAD = 1e-9


class SubsetSampler(Protocol):
    """Draws a non-empty subset of the modalities that a case has."""

    def sample(self, available: Mask) -> Mask:
        """Flags (C,) of the modalities to keep, a non-empty part of ``available`` (C,)."""
        ...


class UniformSampler:
    """Every non-empty subset of the available modalities is equally likely (MST-KDNet's training mask)."""

    def sample(self, available: Mask) -> Mask:
        members = np.flatnonzero(available)
        code = np.random.randint(1, 2 ** len(members))
        kept = np.zeros_like(available)
        kept[members[[bool(code >> bit & 1) for bit in range(len(members))]]] = True
        return kept

    def __repr__(self) -> str:
        return "UniformSampler()"


class ByCountSampler:
    """First the number of modalities, uniformly, then that many of them (U-HVED's scheme)."""

    def sample(self, available: Mask) -> Mask:
        members = np.flatnonzero(available)
        count = np.random.randint(1, len(members) + 1)
        kept = np.zeros_like(available)
        kept[np.random.choice(members, count, replace=False)] = True
        return kept

    def __repr__(self) -> str:
        return "ByCountSampler()"


class BernoulliSampler:
    """Each modality is kept independently; an empty draw is drawn again.

    Args:
        keep_probability: in (0, 1], one per modality (C,).
    """

    def __init__(self, keep_probability: Sequence[float]) -> None:
        self.keep_probability = np.asarray(keep_probability, dtype=float)

    def sample(self, available: Mask) -> Mask:
        while True:
            kept = available & (np.random.uniform(size=available.shape) < self.keep_probability)
            if kept.any():
                return kept

    def __repr__(self) -> str:
        return f"BernoulliSampler({self.keep_probability.tolist()})"


class WeightedSampler:
    """Subsets with the user's weights, restricted to those a case can have.

    A case that can have none of the weighted subsets falls back to the uniform sampler: it is never
    dropped from training.

    Args:
        masks: flags (S, C), one row per weighted subset.
        weights: (S,), at least 0, one of them above 0.
    """

    def __init__(self, masks: Sequence[Sequence[bool]], weights: Sequence[float]) -> None:
        self.masks = np.asarray(masks, dtype=bool)
        self.weights = np.asarray(weights, dtype=float)
        self._fallback = UniformSampler()

    def sample(self, available: Mask) -> Mask:
        weights = np.where((self.masks & ~available).any(axis=1), 0.0, self.weights)
        total = weights.sum()
        if total <= 0:
            return self._fallback.sample(available)
        return self.masks[np.random.choice(len(weights), p=weights / total)].copy()

    def __repr__(self) -> str:
        return f"WeightedSampler({len(self.masks)} subsets)"


class DifficultySampler(WeightedSampler):
    """Subsets with probabilities that follow how hard they are; at first those of the start.

    Args:
        masks: flags (S, C), one row per subset.
        start: (S,), at least 0, one of them above 0.
    """

    def __init__(self, masks: Sequence[Sequence[bool]], start: Sequence[float]) -> None:
        super().__init__(masks, start)
        self.start: NDArray[np.float64] = self.weights / self.weights.sum()
        self.weights = self.start.copy()

    def favour(self, difficulty: NDArray[np.float64], strength: float) -> None:
        """Draw by difficulty from here on: start · exp(strength · d), d standardised over the subsets.

        No probability leaves half to twice that of the start, but for the sum's being 1: a subset that cannot
        be solved must not take all the steps.

        Args:
            difficulty: (S,), any unit; nan counts as the mean.
            strength: 0 is the start.
        """
        known = np.isfinite(difficulty)
        scores = np.zeros(len(self.start))
        if known.any() and (spread := difficulty[known].std()) > _NO_SPREAD:
            scores[known] = (difficulty[known] - difficulty[known].mean()) / spread
        wanted = self.start * np.exp(strength * scores)
        bounded = np.clip(wanted / wanted.sum(), _RAREST * self.start, _MOST_OFTEN * self.start)
        self.weights = bounded / bounded.sum()

    def __repr__(self) -> str:
        return f"DifficultySampler({len(self.masks)} subsets)"


def build_sampler(
    name: str,
    modalities: Sequence[str],
    *,
    keep_probability: float | Mapping[str, float] = 0.5,
    subset_weights: Mapping[str, float] | None = None,
    single_weight: float = 1.0,
) -> SubsetSampler:
    """The sampler that the ``sampler`` setting names.

    Args:
        name: one of :data:`SAMPLERS`.
        modalities: names in channel order.
        keep_probability: for ``bernoulli``; a dict's missing names keep 0.5.
        subset_weights: for ``weights``: subset text (``"t1c+t2f"``) to weight.
        single_weight: for ``uniform`` and ``difficulty``: how much more likely than another subset one of a
            single modality is.

    Raises:
        MSTKDError: unknown sampler or modality, one that is named twice, no weight above 0, or a
            ``single_weight`` that the sampler does not know.
    """
    if name in ("uniform", "difficulty"):
        if name == "uniform" and single_weight == 1:
            return UniformSampler()
        masks = [subset_mask(subset, modalities) for subset in all_subsets(modalities)]
        weights = [single_weight if sum(mask) == 1 else 1.0 for mask in masks]
        return (WeightedSampler if name == "uniform" else DifficultySampler)(masks, weights)
    if single_weight != 1:
        raise MSTKDError(
            f"single_weight {single_weight:g} is for the samplers uniform and difficulty, not '{name}'; leave"
            " it out, or give sampler 'weights' with subset_weights"
        )
    if name == "by_count":
        return ByCountSampler()
    if name == "bernoulli":
        if isinstance(keep_probability, Mapping):
            named = {resolve(key, modalities): value for key, value in keep_probability.items()}
            if len(named) < len(keep_probability):
                raise MSTKDError(f"keep_probability names a modality twice: {', '.join(keep_probability)}")
            return BernoulliSampler([named.get(m, 0.5) for m in modalities])
        return BernoulliSampler([float(keep_probability)] * len(modalities))
    if name == "weights":
        subsets = {parse_subset(text, modalities): w for text, w in (subset_weights or {}).items()}
        if len(subsets) < len(subset_weights or {}):
            raise MSTKDError(f"subset_weights names a subset twice: {', '.join(subset_weights or {})}")
        if not any(weight > 0 for weight in subsets.values()):
            raise MSTKDError("sampler 'weights' needs subset_weights with at least one number above 0")
        return WeightedSampler([subset_mask(s, modalities) for s in subsets], list(subsets.values()))
    raise MSTKDError(f"unknown sampler '{name}'; known: {', '.join(SAMPLERS)}")
