"""``python -m benchmarks.scaling``: cost against patch, modalities and tokens."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import parser, publish, report, table
from benchmarks.scaling.counting import SHARES, count, edge, tokens_at
from benchmarks.scaling.measuring import in_fresh_process
from benchmarks.scaling.networks import CLASSES, Configuration
from benchmarks.scaling.planned import DATA_SETS, planned_patches
from nnunetv2_mstkd.methods.mstkd.transformer import TOKEN_PATCH_SIZES

PATCHES = (32, 64, 96, 128, 160)
MODALITIES = (1, 2, 4, 8)
TOKEN_PATCHES = (4, 2, 1)
# Of the patches that attention's threshold is worked out from: large, or borders count.
_COUNTED_AT = {3: 192, 2: 1024}


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    measured = []
    for group, configuration in configurations(args.patches, args.modalities, args.token_patches, args.at):
        row = {"group": group, **_counted(configuration)}
        if not args.count_only:
            row |= in_fresh_process(configuration, args.device, args.repeats)
        measured.append(row)
        print(f"{group}: {_name(row)}", file=sys.stderr, flush=True)
    results = {
        "unit": "multiply-adds of one forward pass; seconds and bytes of one training step, batch 1",
        "steps": measured,
        "thresholds": [row for axes in (3, 2) for row in thresholds(axes)],
        "planned": planned_patches(args.data_sets, args.memory_gb),
        "planned_for_gb": args.memory_gb,
    }
    text = "\n\n".join(
        (_steps_table(measured), _thresholds_table(results["thresholds"]), _planned_table(results["planned"]))
    )
    publish(report("scaling", args.device, results), text, args.json)
    return 0


def _parser() -> ArgumentParser:
    described = "Step time, memory and multiply-adds as patch, modalities and tokens grow."
    options = parser("scaling", described, repeats=3)
    add = options.add_argument
    add("--patches", type=int, nargs="*", default=PATCHES, metavar="N", help="edges of cubes, voxels")
    add("--modalities", type=int, nargs="*", default=MODALITIES, metavar="N")
    add("--token-patches", type=int, nargs="*", default=TOKEN_PATCHES, choices=TOKEN_PATCH_SIZES)
    add("--at", type=int, default=128, metavar="N", help="cube for modalities and tokens (default 128)")
    add("--count-only", action="store_true", help="no step is run: multiply-adds only, in seconds")
    add("--data-sets", nargs="*", default=tuple(DATA_SETS), choices=tuple(DATA_SETS), help="to plan")
    add("--memory-gb", type=float, default=24, metavar="GB", help="to plan for (default 24)")
    return options


def configurations(
    patches: Sequence[int], modalities: Sequence[int], token_patches: Sequence[int], at: int
) -> list[tuple[str, Configuration]]:
    """What is varied, and each network: patch, then modalities, then tokens; the rest as planned."""
    return [
        *(("patch", Configuration((edge,) * 3)) for edge in patches),
        *(("modalities", Configuration((at,) * 3, number)) for number in modalities),
        *(("tokens", Configuration((at,) * 3, token_patch=size)) for size in token_patches),
    ]


def _counted(configuration: Configuration) -> dict[str, Any]:
    architecture, patch = configuration.architecture, configuration.patch
    return {
        "patch": list(patch),
        "modalities": configuration.modalities,
        "token_patch": architecture["arch_kwargs"]["token_patch_size"],
        **count(architecture, patch, configuration.modalities, CLASSES).to_json(),
    }


def thresholds(axes: int) -> list[dict[str, Any]]:
    """Number of tokens from which attention takes each of ``SHARES``, per token patch."""
    rows = []
    for size in TOKEN_PATCH_SIZES:
        configuration = Configuration((_COUNTED_AT[axes],) * axes, token_patch=size)
        counted = count(configuration.architecture, configuration.patch, configuration.modalities, CLASSES)
        voxels = round(_COUNTED_AT[axes] / counted.tokens ** (1 / axes))
        tokens = {share: tokens_at(counted, share) for share in SHARES}
        rows.append(
            {
                "axes": axes,
                "token_patch": size,
                "voxels_per_token": voxels,
                "tokens": {f"{share:g}": number for share, number in tokens.items()},
                "edge": {f"{share:g}": edge(number, voxels, axes) for share, number in tokens.items()},
            }
        )
    return rows


def _steps_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ("varied: patch, modalities, tokens", "s", "s/Mvoxel", "GiB", "GMAC", "linear", "attention")
    return table(header, [_step_cells(row) for row in rows])


def _step_cells(row: dict[str, Any]) -> tuple[str, ...]:
    parts, total = row["multiply_adds"], sum(row["multiply_adds"].values())
    voxels = row["patch"][0] ** len(row["patch"]) / 1e6
    measured = ["-", "-", "-"]
    if "median" in row:
        numbers = row["median"], row["median"] / voxels, row["peak_bytes"] / 2**30
        measured = [f"{number:.3f}" for number in numbers]
    elif "error" in row:
        measured = ["failed", "-", "-"]
    shares = (f"{parts[part] / total:.2%}" for part in ("linear", "attention"))
    return f"{row['group']}: {_name(row)}", *measured, f"{total / 1e9:.1f}", *shares


def _name(row: dict[str, Any]) -> str:
    patch = "x".join(map(str, row["patch"]))
    return f"{patch}, {row['modalities']}, {row['tokens']}"


def _thresholds_table(rows: Sequence[dict[str, Any]]) -> str:
    """Tokens, and in brackets the edge of the square or cube that has them."""
    header = ("attention passes … from … tokens (edge)", *(f"{share:.0%}" for share in SHARES))
    lines = []
    for row in rows:
        cells = (f"{n} ({e})" for n, e in zip(row["tokens"].values(), row["edge"].values(), strict=True))
        lines.append((f"{row['axes']}D, token patch {row['token_patch']}", *cells))
    return table(header, lines)


def _planned_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ("planned by", "patch", "batch", "token patch", "tokens", "attention")
    return table(
        header,
        [
            (
                f"{row['planner']}: {row['data_set']} {row['configuration']}",
                "x".join(map(str, row["patch"])),
                str(row["batch_size"]),
                "x".join(map(str, row["token_patch"])),
                str(row["tokens"]),
                f"{row['attention_share']:.2%}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
