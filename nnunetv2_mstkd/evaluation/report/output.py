"""The folder that a comparison leaves: made beside its place, then moved there whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.runs import Comparison
from nnunetv2_mstkd.evaluation.figures import save_figures
from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.record.record import Evaluation
from nnunetv2_mstkd.evaluation.report.markdown import comparison_markdown
from nnunetv2_mstkd.evaluation.report.methods_text import METHODS_TEXT, comparison_text
from nnunetv2_mstkd.evaluation.report.page import write_report
from nnunetv2_mstkd.files import DESKTOP_FILES, writable_folder, write_json

RECORD_FILE = "comparison.json"
FIGURES, REPORT = "figures", "report.html"
_FILES = (
    RECORD_FILE,
    METHODS_TEXT,
    "comparison.md",
    "means.csv",
    "differences.csv",
    "ablation.csv",
    "published.csv",
    "ranks.csv",
    REPORT,
)
_RECORD_VERSION = 1
_PACKAGES = ("pandas", "matplotlib")  # beside those that an evaluation names


def check_output(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder that is not ours to replace, before anything is computed.

    Raises:
        MSTKDError: it is a file, holds something else than a comparison, or lies in an input.
    """
    place = folder.resolve()
    for given in inputs:
        if place.is_relative_to(given.resolve()):
            raise MSTKDError(f"-o {folder} is inside the run {given}; choose a folder outside of the runs")
    if not place.exists():
        return
    if not place.is_dir():
        raise MSTKDError(f"-o {folder} is a file; give a folder")
    content = [path for path in place.iterdir() if not _is_of_the_desktop(path)]
    foreign = [path.name for path in content if not _is_ours(path)]
    if foreign or (content and not (place / RECORD_FILE).is_file()):
        raise MSTKDError(
            f"-o {folder} holds {(sorted(foreign) or [content[0].name])[0]}, which is not a comparison's;"
            " choose a new folder"
        )


def _is_of_the_desktop(path: Path) -> bool:
    """Say whether a file is what looking at a folder leaves behind."""
    return path.name in DESKTOP_FILES or path.name.startswith("._")


def _is_ours(path: Path) -> bool:
    if path.name == FIGURES:
        pictures = [p for p in path.iterdir() if not _is_of_the_desktop(p)] if path.is_dir() else [path]
        return all(p.is_file() and p.suffix in (".png", ".svg") for p in pictures)
    return path.name in _FILES


def write_comparison(comparison: Comparison, folder: Path, *, command: str) -> None:
    """Write tables, figures and report; ``folder`` changes only when all of it is there.

    Args:
        folder: checked by :func:`check_output`; an older comparison in it is replaced.
        command: what was typed.

    Raises:
        MSTKDError: it cannot be written; ``folder`` is as it was.
    """
    writable_folder(folder.resolve().parent)
    try:
        with replacing_folder(folder.resolve()) as place:
            _write(comparison, place, command)
    except OSError as error:
        reason = error.strerror or error
        raise MSTKDError(f"cannot replace {folder}: {reason}; choose another folder") from error


def _write(comparison: Comparison, place: Path, command: str) -> None:
    write_json(comparison_record(comparison, command), place / RECORD_FILE)
    for name in ("means", "differences", "ablation", "published", "ranks"):
        table = getattr(comparison, name)
        if table is not None:
            table.to_csv(place / f"{name}.csv", index=False)
    figures = save_figures(comparison, place / FIGURES)
    links = [(figure.title, figure.png.relative_to(place).as_posix()) for figure in figures]
    text = comparison_markdown(comparison, command, links)
    (place / "comparison.md").write_text(text, encoding="utf-8", errors="replace")
    (place / METHODS_TEXT).write_text(comparison_text(comparison), encoding="utf-8")
    write_report(comparison, figures, place / REPORT, command=command)


def comparison_record(comparison: Comparison, command: str) -> dict[str, Any]:
    """Return the content of ``comparison.json``: what was compared, and how."""
    return {
        "version": _RECORD_VERSION,
        "command": command,
        "reference": comparison.reference,
        "policy": comparison.policy,
        "lesionwise": comparison.facts.lesionwise,
        "modalities": list(comparison.modalities),
        "subsets": list(comparison.subsets),
        "regions": {name: list(labels) for name, labels in comparison.regions.items()},
        "metrics": list(comparison.metrics),
        "cases": int(comparison.scores["case"].nunique()),
        "patients": int(comparison.scores["patient"].nunique()),
        "without": list(comparison.without),
        "seed": comparison.seed,
        "resamples": comparison.resamples,
        "versions": versions() | {name: metadata.version(name) for name in _PACKAGES},
        "git": git_commit(),
        "runs": [
            {"name": run.name, "evaluations": [_evaluation_record(e) for e in run.evaluations]}
            for run in comparison.runs
        ],
    }


def _evaluation_record(evaluation: Evaluation) -> dict[str, Any]:
    record = evaluation.record
    return {
        "folder": str(evaluation.folder.resolve()),
        "model": dict(record.model),
        "dataset": record.dataset,
        "cases": len(record.cases),
        "command": record.command,
        "versions": dict(record.versions),
        "git": record.git,
        "sessions": [asdict(session) for session in record.sessions],
    }
