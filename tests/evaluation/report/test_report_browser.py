"""The report in a browser: no error, no sideways scrolling, tables that sort."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import probed
from made_evaluations import make_evaluation, scored_as_on_disk

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure
from nnunetv2_mstkd.evaluation.report.page import write_report

NAMES = ("drop", "full", "a_run_with_a_long_name_that_has_no_place_to_break_it_" * 2)
# What the page looks like to a script, after everything is unfolded and some columns were clicked.
PROBE = """
document.querySelectorAll("details").forEach((d) => { d.open = true; });
const root = document.documentElement;
const table = document.querySelector("table.wide");
const column = (n) => Array.from(table.tBodies[0].rows, (row) => row.cells[n].textContent);
const button = (n) => table.querySelectorAll("th button")[n];
const click = (n) => {
  button(n).click();
  return { cells: column(n), sort: button(n).closest("th").getAttribute("aria-sort") };
};
const found = {
  inner: innerWidth, scroll: root.scrollWidth, client: root.clientWidth,
  outside: Array.from(document.querySelectorAll("body *"))
    .filter((e) => !e.closest(".scroll > *") && e.getBoundingClientRect().right > root.clientWidth + 0.5)
    .map((e) => e.tagName),
  before: column(2), keys: column(1),
  up: click(2), down: click(2), again: click(2), runs: click(1),
  sorted: table.querySelectorAll('th[aria-sort$="ending"]').length,
  focus: (button(2).focus(), document.activeElement === button(2)),
  images: Array.from(document.images, (image) => image.naturalWidth),
};
parent.document.title = JSON.stringify(found);
"""


@pytest.fixture
def report(evaluation, tmp_path):
    """A report with everything in it, one cell of the first column empty."""
    folders = [str(evaluation(f"{i}" + "_long_folder" * 12, seed=i, gain=0.01 * i)) for i in range(3)]
    for folder in map(Path, folders):
        record = json.loads((folder / "evaluation.json").read_text())
        record["model"]["settings"] = {"seed": 1, "subset_weights": {"t1n+t1c+t2w+t2f": 0.125, "t1c": 1}}
        (folder / "evaluation.json").write_text(json.dumps(record))
    runs = load_runs(folders, NAMES)
    comparison = compare_runs(runs, reference="full", ablation=True, published="brats2024", resamples=200)
    empty = comparison.means["subset"].eq("t2w") & comparison.means["run"].eq("drop")
    comparison.means.loc[empty & comparison.means["region"].eq("TC"), "mean"] = np.nan
    svg = tmp_path / "figure.svg"
    svg.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="700" height="90"><rect style="fill:red"/></svg>'
    )
    figure = SavedFigure("f", "Figure", "Caption", svg, svg)
    path = tmp_path / "report.html"
    write_report(comparison, [figure], path, command="nnUNetv2_mstkd compare " + " ".join(folders))
    return path


def test_its_policy_stops_foreign_scripts_and_nothing_of_its_own(report, browse):
    changed, text = report.with_name("changed.html"), report.read_text(encoding="utf-8")
    foreign = "<script>document.title = 'run'</script></body>"
    changed.write_text(text.replace("</body>", foreign), encoding="utf-8")
    document, log = browse(changed, 1280)
    assert "<title>Comparison on Dataset900_Phantom</title>" in document
    assert len(log) == 1, log
    assert "script-src" in log[0]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What the command itself writes of two runs, pictures and all."""
    root = tmp_path_factory.mktemp("compared")
    runs = [make_evaluation(root / n, patients=2, seed=i, images=True) for i, n in enumerate("ab")]
    for run in runs:
        scored_as_on_disk(run)
    flags = ("--resamples", "200", "--ablation", "--published", "brats2024", "-o", str(root / "out"))
    assert main(["compare", *map(str, runs), *flags]) == 0
    return root / "out" / "report.html"


@pytest.mark.parametrize("width", [400, 1280])
def test_what_compare_writes_opens_without_a_word_on_the_console(compared, browse, width):
    """The file as it is, its content policy included; a second one shows that a word would be heard."""
    for path, words in ((compared, 0), (compared.with_name("changed.html"), 1)):
        if words:
            foreign = "<script>document.title = 'run'</script></body>"
            path.write_text(
                compared.read_text(encoding="utf-8").replace("</body>", foreign), encoding="utf-8"
            )
        # Windows are not narrower than 500 pixels; frames are.
        frame = f'<iframe style="width:{width}px;height:800px;border:0" src="{path.name}"></iframe>'
        outer = path.with_name("outer.html")
        outer.write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
        _, log = browse(outer, width + 100)
        assert len(log) == words, log
    if width == 1280:
        document, log = browse(compared, width)
        assert log == []
        assert document.count("<figure ") == 5


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page_and_tables_sort(report, browse, width):
    found = probed(report, report.with_name("copy.html"), browse, width, PROBE)
    assert found["inner"] == width
    assert found["scroll"] <= found["client"]
    assert found["outside"] == []
    assert found["images"] == [700]

    numbers = sorted(float(cell) for cell in found["before"] if cell != "–")  # noqa: RUF001
    assert len(numbers) == 8
    printed = [f"{number:.1f}" for number in numbers]
    assert found["before"] != [*printed, "–"]  # noqa: RUF001
    assert found["up"] == {"cells": [*printed, "–"], "sort": "ascending"}  # noqa: RUF001
    assert found["down"] == {"cells": [*printed[::-1], "–"], "sort": "descending"}  # noqa: RUF001
    assert found["again"] == {"cells": found["before"], "sort": "none"}
    assert found["runs"] == {"cells": sorted(found["keys"]), "sort": "ascending"}
    assert found["sorted"] == 1
    assert found["focus"]
