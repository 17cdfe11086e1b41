"""Contrasts of the phantom: what each sequence shows of each tissue, and what a scanner adds.

As in life, edema shows in t2f and t2w (in t2w fluid is as bright), the enhancing rim in t1c only, and the
necrotic core best inside the rim in t1c and dark in t1n.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter

from nnunetv2_mstkd.datasets.phantom.anatomy import Grid, Tissue
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

# Signal relative to white matter in T1. Where a sequence must not see a tissue it has its neighbour's value:
# the rim about that of edema everywhere but in t1c.
SIGNAL: Mapping[str, Mapping[Tissue, float]] = {
    "t1n": {
        Tissue.WHITE: 1.00, Tissue.GREY: 0.78, Tissue.CSF: 0.32, Tissue.VESSEL: 0.75,
        Tissue.EDEMA: 0.80, Tissue.NECROSIS: 0.50, Tissue.ENHANCING: 0.82,
    },
    "t1c": {
        Tissue.WHITE: 1.00, Tissue.GREY: 0.80, Tissue.CSF: 0.32, Tissue.VESSEL: 1.45,
        Tissue.EDEMA: 0.82, Tissue.NECROSIS: 0.40, Tissue.ENHANCING: 1.65,
    },
    "t2w": {
        Tissue.WHITE: 0.55, Tissue.GREY: 0.75, Tissue.CSF: 1.30, Tissue.VESSEL: 0.60,
        Tissue.EDEMA: 1.10, Tissue.NECROSIS: 1.05, Tissue.ENHANCING: 1.02,
    },
    "t2f": {
        Tissue.WHITE: 0.62, Tissue.GREY: 0.75, Tissue.CSF: 0.22, Tissue.VESSEL: 0.62,
        Tissue.EDEMA: 1.30, Tissue.NECROSIS: 1.14, Tissue.ENHANCING: 1.20,
    },
}  # fmt: skip

_SPREAD = 0.03  # of the signals between patients
_TEXTURE = 0.035
_BIAS = 0.10  # standard deviation of the logarithm of the coil's sensitivity
_NOISE = 0.035  # of white matter in T1, in each of the two receiver channels
_BLUR = 0.55  # voxels; partial volume
_BRIGHTNESS = {"t1n": 450.0, "t1c": 600.0, "t2w": 380.0, "t2f": 320.0}  # of signal 1, on average


def acquire(rng: np.random.Generator, grid: Grid, tissues: np.ndarray) -> dict[str, np.ndarray]:
    """One int16 image (x, y, z) per modality; zero outside the brain, at least 1 inside.

    The arbitrary brightness of a scan (a factor per case and sequence), a smooth bias field, texture, partial
    volume at tissue borders, and Rician noise as magnitude images have it.
    """
    brain = tissues != Tissue.OUTSIDE
    weight = np.maximum(gaussian_filter(brain.astype(np.float64), _BLUR), 1e-6)
    # Edema is not uniform: here and there white matter is only half swollen.
    edema = tissues == Tissue.EDEMA
    infiltration = edema * np.clip(0.10 + 0.10 * grid.field(rng, 0.25), 0, 0.5)
    images = {}
    for modality in BRATS_MODALITIES:
        table = np.zeros(len(Tissue))
        for tissue, signal in SIGNAL[modality].items():
            table[tissue] = signal * (1 + _SPREAD * rng.standard_normal())
        signal = table[tissues]
        signal += infiltration * (table[Tissue.WHITE] - table[Tissue.EDEMA])
        signal = gaussian_filter(signal, _BLUR) / weight
        signal *= 1 + _TEXTURE * grid.field(rng, 0.12)
        signal *= np.exp(_BIAS * grid.field(rng, 2.0))
        real = signal + _NOISE * rng.standard_normal(grid.shape)
        imaginary = _NOISE * rng.standard_normal(grid.shape)
        brightness = _BRIGHTNESS[modality] * np.exp(0.3 * rng.standard_normal())
        magnitude = np.rint(brightness * np.hypot(real, imaginary))
        images[modality] = np.where(brain, np.clip(magnitude, 1, np.iinfo(np.int16).max), 0).astype(np.int16)
    return images
