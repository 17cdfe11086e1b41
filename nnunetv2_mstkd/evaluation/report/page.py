"""The page: what it shows in which order, in one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nnunetv2_mstkd.evaluation.comparison.published import caveats
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.report import described, measured, published_block
from nnunetv2_mstkd.evaluation.report.commands import commands
from nnunetv2_mstkd.evaluation.report.images import inline
from nnunetv2_mstkd.files import atomic_path

if TYPE_CHECKING:
    from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure

_PACKAGES = ("pandas", "matplotlib")  # beside those that an evaluation names
_OPEN_DETAILS = 2  # so many tables are shown at once; more are folded


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
    """The page as text."""
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_resource("report.html.j2"))
    style, script = _resource("report.css"), _resource("report.js")
    return template.render(
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        comparison=comparison,
        facts=described.facts(comparison),
        figures=[inline(figure) for figure in figures],
        commands=commands(comparison, command),
        evaluations=described.described(comparison),
        overview=described.overview(comparison),
        settings=described.settings_table(comparison),
        own_versions=versions() | {name: metadata.version(name) for name in _PACKAGES},
        own_commit=git_commit(),
        open_details=_OPEN_DETAILS,
        **_tables(comparison),
    )


def _tables(comparison: Comparison) -> dict[str, Any]:
    ablation, published = comparison.ablation, comparison.published
    caption = f"Means over all subsets; Δ against {comparison.reference}."
    return {
        "summaries": measured.summaries(comparison),
        "spreads": measured.spreads(comparison),
        "means": measured.means(comparison),
        "difference_overviews": measured.difference_overviews(comparison),
        "difference_details": measured.difference_details(comparison),
        "ablation": None if ablation is None else measured.ablation_rows(ablation, caption),
        "published": []
        if published is None
        else published_block.published_tables(published, ablation=ablation is not None),
        "published_title": "" if published is None else published_block.published_title(published),
        "caveats": [] if published is None else caveats(published),
    }


def _resource(name: str) -> str:
    return (files("nnunetv2_mstkd.evaluation.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """For the content security policy: the page runs this script and no other."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
