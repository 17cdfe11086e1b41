"""Which volume can stand for an absent modality, so that nnU-Net's preprocessing makes zeros of it.

Zero does for z-score, min-max rescaling and no normalisation. CT normalisation clips and shifts: there it
takes the data set's mean intensity. But a placeholder that is not zero changes nnU-Net's crop to the nonzero
region, so it is only as good as zero where the modalities that are there fill the whole grid (as CT, with air
at -1000, does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import ModelFolder


@dataclass(frozen=True)
class Normalisation:
    """How one channel is normalised: nnU-Net's class, within the nonzero mask or not, and its statistics."""

    scheme: str
    within_mask: bool
    intensities: Mapping[str, float]


def normalisation_of_model(model: ModelFolder) -> tuple[Normalisation, ...]:
    """The channels of a model's plans; nnU-Net normalises alike in all configurations of one plans file.

    Raises:
        MSTKDError: plans.json does not fit dataset.json.
    """
    configurations = model.plans["configurations"].values()
    configuration: Mapping[str, Any] = next((c for c in configurations if "normalization_schemes" in c), {})
    schemes = configuration.get("normalization_schemes", ())
    within = configuration.get("use_mask_for_norm", ())
    if not len(schemes) == len(within) == len(model.modalities):
        raise MSTKDError(
            f"{model.path}: plans.json is for {len(schemes)} channels, dataset.json names"
            f" {len(model.modalities)} ({', '.join(model.modalities)}); they belong to different data sets"
        )
    statistics = model.plans.get("foreground_intensity_properties_per_channel", {})
    return tuple(
        Normalisation(scheme, bool(mask), statistics.get(str(channel), {}))
        for channel, (scheme, mask) in enumerate(zip(schemes, within, strict=True))
    )


def normalisation_by_name(channel_names: Sequence[str]) -> tuple[Normalisation, ...]:
    """What nnU-Net's planner would choose from the channel names alone, statistics unknown."""
    from nnunetv2.preprocessing.normalization import map_channel_name_to_normalization as nnunet

    schemes = (nnunet.get_normalization_scheme(name).__name__ for name in channel_names)
    return tuple(Normalisation(scheme, True, {}) for scheme in schemes)


def placeholder_value(channel: Normalisation) -> float | None:
    """The constant (zero if possible) that nnU-Net's normalisation turns into zero; None if none is known.

    Found by asking nnU-Net's class, so a scheme that is not known here is treated right as well.
    """
    for value in (0.0, channel.intensities.get("mean")):
        if value is not None and _becomes_zero(channel, value):
            return float(np.float32(value))
    return None


def _becomes_zero(channel: Normalisation, value: float) -> bool:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    package = "preprocessing.normalization"
    folder = Path(nnunetv2.__path__[0], *package.split("."))
    scheme = recursive_find_python_class(str(folder), channel.scheme, f"nnunetv2.{package}")
    if scheme is None:
        return False
    volume, mask = np.full((2, 2, 2), value, dtype=np.float32), np.zeros((2, 2, 2), dtype=np.int8)
    try:
        normalise = scheme(channel.within_mask, dict(channel.intensities))
        return not normalise.run(volume, mask).any()
    except (KeyError, AssertionError):  # statistics that the scheme needs are unknown
        return False


def fills_the_grid(volumes: Sequence[np.ndarray], *, exactly: bool) -> bool:
    """Whether nnU-Net's crop to the nonzero region would cut nothing from these volumes (Z, Y, X).

    Args:
        exactly: no voxel at all may be outside; else the region's box is what counts.
    """
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    mask = create_nonzero_mask(np.stack(volumes))
    if exactly:
        return bool(mask.all())
    return all(mask.take(end, axis).any() for axis in range(mask.ndim) for end in (0, -1))
