"""Which preprocessed data a configuration can train on.

nnU-Net names the folder of preprocessed cases in each configuration (``data_identifier``). Two
configurations can share one when the preprocessor would do the same to every voxel; patch size, batch
size and network play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.plans.options import NNUNET_PLANS

# What DefaultPreprocessor reads from a configuration, apart from the spacing (compared as numbers).
_DETERMINES_DATA = (
    "preprocessor_name",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
# ... and from the plans as a whole.
_PLANS_WIDE = (
    "transpose_forward",
    "image_reader_writer",
    "foreground_intensity_properties_per_channel",
)


@dataclass(frozen=True)
class DataSource:
    """Where the cases of one configuration come from.

    Attributes:
        identifier: folder below ``nnUNet_preprocessed/DatasetXXX_Name``.
        plans: name of the plans whose preprocessing makes this folder.
        configuration: in those plans.
        cases: preprocessed cases found there.
    """

    identifier: str
    plans: str
    configuration: str
    cases: int


def resolve(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with everything that it inherits."""
    own = plans["configurations"][configuration]
    parent = own.get("inherits_from")
    return {**(resolve(plans, parent) if parent else {}), **own}


def same_data(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two resolved configurations of equal plans-wide entries preprocess alike."""
    our_spacing, their_spacing = (np.asarray(c.get("spacing", ()), dtype=float) for c in (ours, theirs))
    return (
        our_spacing.shape == their_spacing.shape
        and bool(np.allclose(our_spacing, their_spacing, rtol=1e-6, atol=0))
        and all(ours.get(key) == theirs.get(key) for key in _DETERMINES_DATA)
    )


def find_source(plans: Mapping[str, Any], configuration: str, folder: Path) -> DataSource:
    """The data for ``configuration`` of ``plans`` (JSON types): another plans file's if it is the same.

    Filled folders come before empty ones, nnU-Net's own plans before others, the same configuration's
    name before others; without any match it is a folder of its own.
    """
    ours = resolve(plans, configuration)
    own_name = plans["plans_name"]
    candidates = [
        _source(folder, theirs["data_identifier"], other["plans_name"], name)
        for other in _plans_in(folder)
        if all(plans.get(key) == other.get(key) for key in _PLANS_WIDE)
        for name, theirs in _by_closeness(other, configuration)
        if same_data(ours, theirs)
    ]
    # A filled folder of our own name counts only through the candidates: if the plans file that is about to
    # be replaced does not match, the cases in it were made for another spacing.
    own = DataSource(f"{own_name}_{configuration}", own_name, configuration, cases=0)
    return max([*candidates, own], key=lambda source: source.cases > 0)


def _source(folder: Path, identifier: str, plans: str, configuration: str) -> DataSource:
    # One .pkl per case, whatever format nnU-Net stores the voxels in.
    return DataSource(identifier, plans, configuration, len(list((folder / identifier).glob("*.pkl"))))


def _by_closeness(plans: Mapping[str, Any], configuration: str) -> Iterator[tuple[str, dict[str, Any]]]:
    names = sorted(plans["configurations"], key=lambda name: name != configuration)
    for name in names:
        resolved = resolve(plans, name)
        # A configuration that inherits its data is listed by the one that has it.
        if "data_identifier" in plans["configurations"][name]:
            yield name, resolved


def _plans_in(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.stem != NNUNET_PLANS, path.name)):
        try:
            content = read_json(path)
        except MSTKDError:
            continue  # somebody else's file; not ours to complain about
        if isinstance(content, dict) and "configurations" in content and "plans_name" in content:
            yield content
