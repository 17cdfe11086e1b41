"""Lesion-wise Dice and HD95 with the rules of BraTS 2023.

Every reference lesion is scored on its own, and lesions that are not there cost as much as lesions not found.
The rules were read from the challenge's evaluation code; ``data/lesion_rules.json`` has its address and its
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label

from nnunetv2_mstkd.evaluation.metrics.cropping import Box, bounding_box, grow
from nnunetv2_mstkd.evaluation.metrics.hausdorff import hd95
from nnunetv2_mstkd.evaluation.metrics.overlap import count_overlap, dice

_RULES_FILE = Path(__file__).with_name("lesion_rules.json")
DEFAULT_RULES = "brats2023-gli"
# Spacing in headers is rounded: 50 voxels of 1.0000001 mm are still 50 mm³.
_VOLUME_TOLERANCE = 1e-5


@dataclass(frozen=True)
class LesionRules:
    """How a challenge counts lesions.

    Attributes:
        name: key in :data:`RULES`.
        dilation: iterations by which reference lesions are grown to merge and to match them.
        dilation_connectivity, component_connectivity: along how many axes at once two neighbours may differ.
        minimum_volume: mm³; a reference lesion of this volume or less is not scored.
        penalty_dice, penalty_hd95: of a missed and of a false lesion; the latter in mm.
        source: address of what the numbers were read from.
    """

    name: str
    dilation: int
    dilation_connectivity: int
    component_connectivity: int
    minimum_volume: float
    penalty_dice: float
    penalty_hd95: float
    source: str


@dataclass(frozen=True)
class LesionScore:
    """Lesion-wise scores of one region of one case.

    Attributes:
        dice, hd95: means over the scored reference lesions and the false ones; 1 and 0 mm without any.
        lesions: reference lesions that were scored.
        missed: those of them that no predicted component touches.
        false: predicted components that touch no reference lesion, of any size.
        small: reference lesions too small to be scored; what touches them is not false.
    """

    dice: float
    hd95: float
    lesions: int
    missed: int
    false: int
    small: int


def _read_rules() -> dict[str, LesionRules]:
    content = json.loads(_RULES_FILE.read_text(encoding="utf-8"))
    common = {**content["shared"], "source": content["source"]}
    return {name: LesionRules(name, **common, **own) for name, own in content["challenges"].items()}


RULES: Mapping[str, LesionRules] = _read_rules()


def score_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    rules: LesionRules,
    *,
    voxel_volume: float | None = None,
) -> LesionScore:
    """Score every lesion of a region.

    1. Reference components whose dilations touch are one lesion; the lesion itself is not dilated.
    2. A predicted component belongs to every lesion whose dilation it overlaps.
    3. A lesion is compared with all components that belong to it, taken whole. Without any it is missed.
    4. A component that belongs to no lesion is a false lesion.

    Args:
        prediction, reference: bool, one shape, 2D or 3D.
        spacing: mm per array axis.
        rules: one of :data:`RULES`.
        voxel_volume: mm³, what the minimum volume is compared with; None takes the product of the spacing,
            which is too little for the plane of an image of one slice.
    """
    volume = float(np.prod(spacing)) if voxel_volume is None else voxel_volume
    box = bounding_box(prediction | reference)
    if box is None:
        return LesionScore(dice=1.0, hd95=0.0, lesions=0, missed=0, false=0, small=0)
    # Dilations that leave the box need not be followed: what touches outside of it touches inside, too
    # (moved to the box, a voxel comes nearer to both lesions).
    lesions = _merged_lesions(reference[box], rules)
    components, count = label(prediction[box], _structure(prediction.ndim, rules.component_connectivity))
    places = find_objects(components)
    matched = np.zeros(count + 1, dtype=bool)
    scores: list[tuple[float, float]] = []
    missed = small = 0
    for number, place in enumerate(find_objects(lesions), start=1):
        touched = _touched(components, lesions, number, grow(place, rules.dilation, lesions.shape), rules)
        matched |= touched
        voxels = int(np.count_nonzero(lesions[place] == number))
        if voxels * volume <= rules.minimum_volume * (1 + _VOLUME_TOLERANCE):
            small += 1
        elif not touched.any():
            missed += 1
            scores.append((rules.penalty_dice, rules.penalty_hd95))
        else:
            around = _around([place, *(places[i - 1] for i in np.flatnonzero(touched))])
            scores.append(_compare(touched[components[around]], lesions[around] == number, spacing))
    false = count - int(np.count_nonzero(matched))
    lesion_count = len(scores)
    scores += [(rules.penalty_dice, rules.penalty_hd95)] * false
    mean_dice, mean_hd95 = np.mean(scores, axis=0) if scores else (1.0, 0.0)
    return LesionScore(float(mean_dice), float(mean_hd95), lesion_count, missed, false, small)


def _merged_lesions(reference: np.ndarray, rules: LesionRules) -> np.ndarray:
    """Number reference voxels by their lesion, from 1; 0 elsewhere."""
    structure = _structure(reference.ndim, rules.component_connectivity)
    return label(_dilated(reference, rules), structure)[0] * reference


def _touched(
    components: np.ndarray, lesions: np.ndarray, number: int, near: Box, rules: LesionRules
) -> np.ndarray:
    """Find the components that overlap a lesion's dilation: bool by component number, False for 0."""
    touched = np.zeros(int(components.max()) + 1, dtype=bool)
    touched[components[near][_dilated(lesions[near] == number, rules)]] = True
    touched[0] = False
    return touched


def _dilated(mask: np.ndarray, rules: LesionRules) -> np.ndarray:
    if rules.dilation == 0:  # scipy would read 0 as "until nothing changes"
        return mask
    return binary_dilation(mask, _structure(mask.ndim, rules.dilation_connectivity), rules.dilation)


def _structure(axes: int, connectivity: int) -> np.ndarray:
    return generate_binary_structure(axes, min(connectivity, axes))


def _around(boxes: Sequence[Box]) -> Box:
    """Find the smallest box that holds several."""
    return tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True)
    )


def _compare(prediction: np.ndarray, lesion: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    distance = hd95(prediction, lesion, spacing)
    assert distance is not None  # neither is empty
    return dice(*count_overlap(prediction, lesion)), distance
