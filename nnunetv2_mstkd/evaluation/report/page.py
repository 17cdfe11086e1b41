"""The report as a page: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.report import described
from nnunetv2_mstkd.evaluation.report.commands import commands
from nnunetv2_mstkd.evaluation.report.sections import sections
from nnunetv2_mstkd.files import atomic_path

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure

_PACKAGES = ("pandas", "matplotlib")  # beside those that an evaluation names
_LARGEST_SVG = 600_000  # bytes; more vectors are drawn more slowly than pixels of the same figure


def write_report(comparison: Comparison, figures: Sequence[SavedFigure], path: Path, *, command: str) -> None:
    """Write the report of a comparison: one HTML file that needs no network.

    Args:
        figures: as ``figures.save_figures`` gave them; they are copied into the page.
        path: the file; it appears whole or not at all.
        command: what was typed.

    Raises:
        MSTKDError: the disk is full, over quota, read-only or broken.
    """
    page = render(comparison, figures, command)
    with atomic_path(path) as temporary:
        # A file name may hold bytes that are no text.
        temporary.write_text(page, encoding="utf-8", errors="replace")


def render(comparison: Comparison, figures: Sequence[SavedFigure], command: str) -> str:
    """Return the page as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["typeset"] = typeset
    style, script = resource("report.css"), resource("report.js")
    return environment.from_string(resource("report.html.j2")).render(
        style=Markup(style),
        script=Markup(script),
        style_digest=digest(style),
        script_digest=digest(script),
        facts=described.facts(comparison),
        sections=sections(comparison),
        figures=[inline(figure) for figure in figures],
        commands=commands(comparison, command),
        evaluations=described.described(comparison),
        own_versions=versions() | {name: metadata.version(name) for name in _PACKAGES},
        own_commit=git_commit(),
    )


def typeset(text: str) -> str:
    """Print numbers with the true minus sign, which is as wide as the plus."""
    return text.replace("-", "−")  # noqa: RUF001


@dataclass(frozen=True)
class InlinedFigure:
    """A figure as the page holds it: ``source`` is a data: address."""

    title: str
    caption: str
    source: str


def inline(figure: SavedFigure) -> InlinedFigure:
    """Put a figure into the page: as vectors where they are small, else as pixels.

    A figure that shows images holds pixels either way; its PNG is the smaller one.
    """
    svg = figure.svg.read_bytes()
    pixels = b"<image" in svg or len(svg) > _LARGEST_SVG
    kind, content = ("png", figure.png.read_bytes()) if pixels else ("svg+xml", svg)
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return InlinedFigure(figure.title, figure.caption, address)


def resource(name: str) -> str:
    return (files("nnunetv2_mstkd.evaluation.report") / name).read_text(encoding="utf-8")


def digest(text: str) -> str:
    """Digest a text for the content security policy: the page runs this script and no other."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
