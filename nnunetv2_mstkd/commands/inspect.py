"""``nnUNetv2_mstkd inspect``: what a source holds and what would be refused, without segmenting anything."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunetv2_mstkd.commands.channels import add_channel_arguments, chosen_channels
from nnunetv2_mstkd.commands.input_source import add_source_arguments, chosen_rules, chosen_source

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.inspected import InspectedCase
    from nnunetv2_mstkd.datasets.volumes import Geometry

_EPILOG = """Without a model or --dataset_json it looks for the four sequences of BraTS. Every file is
read once; nothing is written. The exit code is 2 if predict would refuse a case."""
_REFUSED = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd inspect",
        description="Says, case by case, what each file is taken for, what is missing and what is wrong.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source_arguments(parser)
    add_channel_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--num-processes", type=int, default=min(8, os.cpu_count() or 1), help="processes (default: up to 8)"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Look and tell; 2 if something would be refused."""
    arguments = _parser().parse_args(argv)
    from nnunetv2_mstkd.datasets.discovery import find_cases
    from nnunetv2_mstkd.datasets.inspected import inspect_all

    source, rules, channels = chosen_source(arguments), chosen_rules(arguments), chosen_channels(arguments)
    found = find_cases(source, channels.modalities, file_ending=channels.file_ending, rules=rules)
    cases = inspect_all(
        found,
        channels.modalities,
        dimensions=channels.image_axes,
        zero_background=channels.zero_background,
        num_processes=arguments.num_processes,
    )
    if arguments.json:
        if found.doubt is not None:
            cases = [replace(case, refused=(found.doubt, *case.refused)) for case in cases]
        print(json.dumps({"cases": [case.to_json() for case in cases]}, indent=2))
    else:
        for case in cases:
            print("\n".join(_lines(case)))
        print(_summary(cases, channels.modalities))
        if found.doubt is not None:
            print(f"would be refused: {found.doubt}", file=sys.stderr)
    return _REFUSED if found.doubt is not None or any(case.refused for case in cases) else 0


def _lines(case: InspectedCase) -> Iterator[str]:
    yield f"{case.name}: {' '.join(case.files) or 'nothing that can be used'}"
    grids = {name: _grid(grid) for name, grid in case.grids.items()}
    same = len(set(grids.values())) == 1
    if same:
        yield f"  grid      {next(iter(grids.values()))}"
    for name, path in case.files.items():
        yield f"  {name:<9} {path}{'' if same or name not in grids else f'  ({grids[name]})'}"
    if case.segmentation is not None:
        yield f"  seg       {case.segmentation}"
    for path, what in case.aside.items():
        yield f"  aside     {path}  ({what})"
    if case.missing:
        yield f"  missing   {' '.join(case.missing)}"
    for line in case.refused:
        yield f"  refused   {line}"
    for line in case.doubts:
        yield f"  doubt     {line}"


def _grid(grid: Geometry) -> str:
    size = "x".join(map(str, grid.size))
    return f"{size} voxels of {' x '.join(f'{mm:.4g}' for mm in grid.spacing)} mm"


def _summary(cases: Sequence[InspectedCase], modalities: Sequence[str]) -> str:
    usable = [case for case in cases if not case.refused]
    parts = [f"{len(cases)} case(s)", f"{sum(not case.missing for case in usable)} complete"]
    parts += [f"{n} without {m}" for m in modalities if (n := sum(m in case.missing for case in usable))]
    doubtful, refused = sum(bool(case.doubts) for case in usable), len(cases) - len(usable)
    parts += [f"{n} {what}" for n, what in ((doubtful, "in doubt"), (refused, "refused")) if n]
    return ", ".join(parts)
