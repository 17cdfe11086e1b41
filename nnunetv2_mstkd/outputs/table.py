"""``statistics.csv``: a row per case and region."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.files import atomic_path
from nnunetv2_mstkd.inference.measuring import RegionStatistics
from nnunetv2_mstkd.outputs.expectation import Expectation
from nnunetv2_mstkd.outputs.statistics_file import Statistics

TABLE_FILE = "statistics.csv"
NOT_SCORED = 50.0  # mm³; BraTS 2023 scores no lesion of adult glioma of this volume or less
_GROUPS = ("used", "absent", "constant", "ignored")
_EXPECTED = tuple(field.name for field in fields(Expectation))
_AXES = ("x", "y", "z")
_OF_VOLUMES = ("volume_ml", "voxels", "lesions", "lesions_over_50_mm3", "lesion_volumes_ml")
_OF_AREAS = ("area_mm2", "voxels", "lesions", "lesion_areas_mm2")
_LISTS = ("lesion_volumes_ml", "lesion_areas_mm2")


def columns(statistics: Statistics) -> tuple[str, ...]:
    """Name the columns; 2D images have areas in place of volumes."""
    regions = (region for entry in statistics.cases.values() for region in entry["regions"].values())
    flat = "area_mm2" in next(regions, {})
    return (
        "case",
        "region",
        *(_OF_AREAS if flat else _OF_VOLUMES),
        *(f"centroid_{axis}_mm" for axis in _AXES[: 2 if flat else 3]),
        *_GROUPS,
        *(_expected_column(name) for name in _EXPECTED),
        "changed",
        "model",
        "version",
    )


def _expected_column(name: str) -> str:
    return f"expected_{name}" if name.startswith(("dice", "volume")) else name


def region_entry(region: RegionStatistics, expectation: Expectation | None) -> dict[str, Any]:
    """Return what ``statistics.json`` holds of one region."""
    sizes, lesions = [_rounded(size) for size in region.lesion_sizes], len(region.lesion_voxels)
    if region.volume_ml is not None:
        measured: dict[str, Any] = {
            "volume_ml": _rounded(region.volume_ml),
            "voxels": region.voxels,
            "lesions": lesions,
            "lesions_over_50_mm3": region.lesions_over(NOT_SCORED),
            "lesion_volumes_ml": sizes,
        }
    else:
        area = _rounded(region.area_mm2 or 0)
        measured = {"area_mm2": area, "voxels": region.voxels, "lesions": lesions, "lesion_areas_mm2": sizes}
    return {
        **measured,
        "centroid_mm": None if region.centroid_mm is None else [round(mm, 3) for mm in region.centroid_mm],
        "expected": None if expectation is None else expectation.to_json(),
    }


def _rounded(size: float) -> float:
    """A millionth of a ml is a thousandth of a mm³: less than a voxel of any scanner."""
    return round(size, 6)


def write_table(statistics: Statistics, folder: Path) -> None:
    """Write ``statistics.csv`` in one step."""
    with (
        atomic_path(folder / TABLE_FILE) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as out,
    ):
        # What a table of an older version or of both kinds of images has more stays in the JSON.
        writer = csv.DictWriter(out, columns(statistics), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_rows(statistics))


def _rows(statistics: Statistics) -> Iterator[dict[str, Any]]:
    for case, entry in statistics.cases.items():
        common = {
            "case": case,
            **{group: "+".join(entry[group]) if entry.get(group) is not None else None for group in _GROUPS},
            **{name: entry.get(name) for name in ("changed", "model", "version")},
        }
        for region, values in entry["regions"].items():
            row = {**common, "region": region, **values}
            row |= {
                name: ";".join(f"{size:.15g}" for size in values[name]) for name in _LISTS if name in values
            }
            row |= dict(zip((f"centroid_{a}_mm" for a in _AXES), values["centroid_mm"] or (), strict=False))
            expected = values.get("expected") or {}
            yield row | {_expected_column(name): expected.get(name) for name in _EXPECTED}
