"""The text and the page print one list of sections: neither has a number that the other has not."""

from __future__ import annotations

import pytest
from report_pages import Page

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.report.markdown import comparison_markdown
from nnunetv2_mstkd.evaluation.report.page import render
from nnunetv2_mstkd.evaluation.report.sections import sections


@pytest.fixture
def comparison(evaluation):
    """Two seeds of one run, another run, its ablation, and the published numbers."""
    folders = [str(evaluation(name, seed=seed, gain=0.03 * seed)) for seed, name in enumerate("abc")]
    runs = load_runs([f"{folders[0]},{folders[1]}", folders[2]], ["full", "x_woGSME"])
    return compare_runs(runs, ablation=True, published="fets2024", resamples=200)


def tables_of_text(text: str) -> list[list[list[str]]]:
    """The tables of Markdown, as rows of cells without bold."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    return [
        [line.strip("|").replace("**", "").split("|") for line in (block[0], *block[2:])] for block in blocks
    ]


def test_both_print_the_same_tables(comparison):
    page = Page(render(comparison, (), "c"))
    _, *text = tables_of_text(comparison_markdown(comparison, "c"))
    assert len(text) == len(page.tables) == sum(len(section.tables) for section in sections(comparison))
    for printed, shown in zip(text, page.tables, strict=True):
        plain = [[cell.replace("−", "-") for cell in row] for row in shown]  # noqa: RUF001
        body = len(printed) - 1  # the page may have a row of groups above the heads
        assert [[cell.strip() for cell in row] for row in printed[1:]] == plain[-body:]


def test_both_have_the_same_headings_and_explanations(comparison):
    page, text = render(comparison, (), "c"), comparison_markdown(comparison, "c")
    for section in sections(comparison):
        assert f"\n## {section.title}\n" in text
        assert f">{section.title}</h2>" in page
        for table in section.tables:
            assert f"\n### {table.title}\n" in text
        for paragraph in section.texts:
            assert paragraph in text
