"""``index.html``: every case's preview beside its statistics, in one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from nnunetv2_mstkd.datasets.regions import region_colors
from nnunetv2_mstkd.evaluation.report.cells import NONE, Cell
from nnunetv2_mstkd.evaluation.report.page import digest, resource, typeset
from nnunetv2_mstkd.files import atomic_path
from nnunetv2_mstkd.outputs.preview import STRIP, preview_file
from nnunetv2_mstkd.outputs.statistics_file import Statistics
from nnunetv2_mstkd.version import __version__

PAGE_FILE = "index.html"
_CHANGED = "changed after prediction"
_STRIP_WIDTH, _STRIP_QUALITY = 640, 82  # pixels; twice what is shown, for fine screens

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A preview in the page.

    Attributes:
        source: a data: address of its first row.
        link: the whole picture, seen from the page.
        width, height: pixels.
    """

    source: str
    link: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A case in the page's table.

    Attributes:
        case: its name.
        note: what else is to be said of it.
        picture: None where it has no preview.
        cells: one for each column.
    """

    case: str
    note: str
    picture: Picture | None
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Head:
    """A column's head; ``group`` is what neighbours share, a region for example."""

    title: str
    numeric: bool = True
    group: str = ""


def write_page(statistics: Statistics, regions: Sequence[str], folder: Path) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        regions: in the order of the data set, which their colours follow.
        folder: with the previews.

    Raises:
        MSTKDError: the disk is full, over quota, read-only or broken.
    """
    text = render(statistics, regions, folder)
    with atomic_path(folder / PAGE_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def render(statistics: Statistics, regions: Sequence[str], folder: Path) -> str:
    """Return the page as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typeset"] = typeset
    colors = region_colors(regions)
    swatches = "".join(f".swatch-{i} {{ background: {c}; }}\n" for i, c in enumerate(colors.values()))
    style = resource("report.css") + _own("index.css") + swatches
    script = resource("report.js")
    entries = statistics.cases
    heads = list(_heads(entries.values(), regions))
    return environment.from_string(_own("index.html.j2")).render(
        style=Markup(style),
        script=Markup(script),
        style_digest=digest(style),
        script_digest=digest(script),
        facts=_facts(statistics),
        regions=list(colors),
        heads=heads,
        groups=_groups(heads),
        rows=[
            Row(
                case,
                _CHANGED if entry.get("changed") else "",
                _picture(folder, case),
                list(_cells(entry, entries.values(), regions)),
            )
            for case, entry in entries.items()
        ],
        expected=_any_expected(entries.values()),
        flat=_are_flat(entries.values()),
        version=__version__,
    )


def _facts(statistics: Statistics) -> dict[str, str]:
    cases = len(statistics.cases)
    models = dict.fromkeys(str(entry["model"]) for entry in statistics.cases.values() if entry.get("model"))
    sequences = dict.fromkeys(name for run in statistics.runs for name in run.get("modalities") or ())
    found = {"Cases": str(cases), "Model": ", ".join(models), "Sequences": ", ".join(sequences)}
    return {name: value for name, value in found.items() if value}


def _any_expected(entries: Sequence[Entry] | Any) -> bool:
    expected = (region.get("expected") or {} for entry in entries for region in entry["regions"].values())
    return any(known.get("dice") is not None for known in expected)


def _heads(entries: Any, regions: Sequence[str]) -> Iterator[Head]:
    yield Head("Used", numeric=False)
    yield Head("Not there", numeric=False)
    expected = _any_expected(entries)
    if expected:
        yield Head("Look", numeric=False)
    size = "Area (mm²)" if _are_flat(entries) else "Volume (ml)"
    for region in regions:
        yield Head(size, group=region)
        yield Head("Lesions", group=region)
        if expected:
            yield Head("Expected Dice (%)", group=region)


def _are_flat(entries: Any) -> bool:
    """Whether images are 2D, so that regions have areas."""
    return any("area_mm2" in region for entry in entries for region in entry["regions"].values())


def _groups(heads: Sequence[Head]) -> list[tuple[str, int]]:
    """Heads above the columns, and how many each spans."""
    spans: list[tuple[str, int]] = []
    for head in heads:
        if spans and spans[-1][0] == head.group:
            spans[-1] = (head.group, spans[-1][1] + 1)
        else:
            spans.append((head.group, 1))
    return spans


def _cells(entry: Entry, entries: Any, regions: Sequence[str]) -> Iterator[Cell]:
    yield Cell(NONE if entry.get("used") is None else "+".join(entry["used"]))
    gone = [*(entry.get("absent") or ()), *(f"{name} (constant)" for name in entry.get("constant") or ())]
    gone += [f"{name} (ignored)" for name in entry.get("ignored") or ()]
    yield Cell(", ".join(gone) or NONE)
    expected = _any_expected(entries)
    known = [region["expected"] for region in entry["regions"].values() if region.get("expected")]
    if expected:
        answers = [region["review"] for region in known if region.get("review") is not None]
        yield Cell(NONE if not answers else "yes" if any(answers) else "no", strong=any(answers))
    for name in regions:
        region = entry["regions"].get(name)
        if region is None:
            yield from [Cell(NONE)] * (3 if expected else 2)
            continue
        size = region["volume_ml"] if "volume_ml" in region else region["area_mm2"]
        yield Cell(f"{size:.1f}" if size else "0", value=float(size))
        # Specks are there, but nobody wants to read "37 lesions" for one tumour with crumbs.
        every = region["lesions"]
        over = region.get("lesions_over_50_mm3", every)
        yield Cell(str(over), f"of {every}" if every != over else "", float(over))
        if expected:
            yield _expected_cell(region.get("expected") or {})


def _expected_cell(expected: Mapping[str, Any]) -> Cell:
    if expected.get("dice") is None:
        return Cell(NONE)
    low, high = expected.get("dice_low"), expected.get("dice_high")
    interval = "" if low is None or high is None else f"[{100 * low:.0f}, {100 * high:.0f}]"
    return Cell(f"{100 * expected['dice']:.0f}", interval, float(expected["dice"]))


def _picture(folder: Path, case: str) -> Picture | None:
    """Put the first row of a preview into the page; the whole of it is a link away."""
    path = preview_file(folder, case)
    try:
        with Image.open(path) as whole:
            left, top, right, bottom = map(int, whole.info[STRIP].split())
            strip = whole.convert("RGB").crop((left, top, right, bottom))
    except (KeyError, OSError, ValueError):  # none, or somebody else's
        return None
    height = max(1, round(strip.height * _STRIP_WIDTH / strip.width))
    small, buffer = strip.resize((_STRIP_WIDTH, height), Image.Resampling.LANCZOS), io.BytesIO()
    small.save(buffer, "JPEG", quality=_STRIP_QUALITY, subsampling=0)
    address = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(address, quote(path.relative_to(folder).as_posix()), _STRIP_WIDTH, height)


def _own(name: str) -> str:
    return (files("nnunetv2_mstkd.outputs") / name).read_text(encoding="utf-8")
