"""The report: what stands in it, that it needs no network, and that nothing in it is taken for markup."""

import base64
import errno
import hashlib
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from report_pages import Page

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.figures.saved import SavedFigure
from nnunetv2_mstkd.evaluation.report.cells import NONE
from nnunetv2_mstkd.evaluation.report.page import write_report

ATTACK = "<script>alert(1)</script>"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9"/></svg>'


@pytest.fixture
def compared(evaluation):
    """Compares three runs: ``compared(ablation=True)``."""

    def compare(names=("drop", "full", "MSTKD_woGSME"), **options):
        folders = [str(evaluation(f"r{i}", seed=i, gain=0.03 * i)) for i in range(len(names))]
        return compare_runs(load_runs(folders, list(names)), resamples=200, **options)

    return compare


@pytest.fixture
def figure(tmp_path):
    png, svg = tmp_path / "f.png", tmp_path / "f.svg"
    png.write_bytes(PNG)
    svg.write_bytes(SVG)
    return SavedFigure("heat", "Heat <map>", "Of 6 patients & more", png, svg)


@pytest.fixture
def written(tmp_path):
    """Writes the report and reads it."""

    def write(comparison, figures=(), command="nnUNetv2_mstkd compare a b -o c"):
        write_report(comparison, figures, tmp_path / "report.html", command=command)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def test_every_table(compared, written):
    comparison = compared(reference="full", ablation=True, published="fets2024")
    page = Page(written(comparison))
    means = page.table("Dice (%), mean over patients")
    assert means[0] == ["Region", "Run", *comparison.subsets, "Avg."]
    assert [row[1] for row in means[1:4]] == ["drop", "full (reference)", "MSTKD_woGSME"]
    stored = comparison.means.set_index(["run", "region", "subset", "metric"])["mean"]
    assert means[1][2] == f"{100 * stored['drop', 'WT', 't2w', 'dice']:.1f}"
    hd95 = page.table("HD95 (mm), mean over patients")
    assert hd95[-1][-1] == f"{stored['MSTKD_woGSME', 'ET', 'Avg.', 'hd95']:.1f}"

    overview = page.table("Dice (%), run minus full")
    assert [row[1] for row in overview[1:]] == ["drop", "MSTKD_woGSME"] * 3
    details = page.table("HD95 (mm): drop minus full, each subset")
    row = comparison.differences.query("run == 'drop' and region == 'WT' and metric == 'hd95'")
    row = row[row["subset"] == "t2w"].iloc[0]
    ends = ", ".join(f"{row[end]:+.1f}" for end in ("low", "high"))
    expected = [f"{row['difference']:+.1f}", f"[{ends}]", f"{row['p']:.3f}", f"{row['p_holm']:.3f}"]
    expected += [str(row[count]) for count in ("wins", "ties", "losses", "patients")]
    assert details[1] == ["WT", "t2w", *(cell.replace("-", "−") for cell in expected)]  # noqa: RUF001

    ablation = page.table("Means over all subsets")
    assert [row[0] for row in ablation] == ["Method", "drop", "w/o GSME", "full"]
    assert [row[0] for row in page.table("Published, not measured here: ablation")][-1] == "Ours (published)"
    published = page.table("Published, not measured here: Dice (%)")
    value = comparison.published.query("table == 'comparison' and metric == 'dice'").iloc[0]
    row = next(row for row in published if row[:2] == [value["region"], value["method"]])
    assert row[published[0].index(value["subset"])] == f"{value['value']:.1f}"


def test_the_summary_has_interval_difference_and_p(compared, written):
    comparison = compared(reference="full")
    table = Page(written(comparison)).table("Dice (%): mean over patients")
    assert table[0] == ["", "All subsets (Avg.)", "Incomplete subsets"]
    assert table[1] == ["Region", "Run", *["Mean", "Difference", "p (Holm)"] * 2]
    keys = ["run", "region", "subset", "metric"]
    mean = comparison.means.set_index(keys).loc[("drop", "TC", "incomplete", "dice")] * 100
    difference = comparison.differences.set_index(keys).loc[("drop", "TC", "incomplete", "dice")]
    drop, full = (
        next(row for row in table if row[:2] == ["TC", run]) for run in ("drop", "full (reference)")
    )
    assert drop[5] == f"{mean['mean']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}]"
    values = [f"{100 * difference[c]:+.1f}" for c in ("difference", "low", "high")]
    shown = f"{values[0]} [{values[1]}, {values[2]}]".replace("-", "−")  # noqa: RUF001
    assert drop[6:] == [shown, f"{difference['p_holm']:.3f}"]
    assert full[3:5] == ["", ""]


def test_nothing_is_loaded_from_elsewhere(compared, written, figure):
    text = written(compared(published="brats2024", ablation=True), [figure])
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            address = attributes.get(name)
            if address is not None and not (tag == "a" and address.startswith("https://")):
                assert address.startswith(("data:", "#")), (tag, address)
    assert page.of("a")[-1]["href"].startswith("https://")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_only_our_script_and_style_run(compared, written):
    text = written(compared())
    policy = next(m["content"] for m in Page(text).of("meta") if "http-equiv" in m)
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")


def test_anchors_lead_somewhere_and_headings_are_in_order(compared, written, figure):
    page = Page(written(compared(published="brats2024", ablation=True), [figure]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for a in page.of("a") if a["href"].startswith("#")]
    assert len(links) == 9
    assert set(links) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.of("html")[0]["lang"] == "en"
    assert all("scope" in attributes for attributes in page.of("th"))
    assert len(page.captions) == len(page.tables)


def test_names_are_text(compared, written, figure):
    names = (ATTACK, '"><img src=x onerror=alert(1)>', "a&b")
    text = written(compared(names, ablation=True), [figure], command=f"compare '{ATTACK}'")
    page = Page(text)
    assert len(page.of("script")) == 1
    assert [image["alt"] for image in page.of("img")] == ["Heat <map>. Of 6 patients & more"]
    assert {row[1] for row in page.table("Dice (%), mean over patients")[1:]} == {
        f"{ATTACK} (reference)",
        *names[1:],
    }
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_small_vectors_stay_and_pictures_become_pixels(compared, written, figure, tmp_path):
    picture = tmp_path / "picture.svg"
    picture.write_bytes(SVG.replace(b"<rect", b'<image href="data:,"/><rect'))
    page = Page(written(compared(), [figure, replace(figure, svg=picture)]))
    sources = [image["src"].partition(",") for image in page.of("img")]
    assert [source[0] for source in sources] == ["data:image/svg+xml;base64", "data:image/png;base64"]
    assert [base64.b64decode(source[2]) for source in sources] == [SVG, PNG]


def test_a_single_run(compared, written):
    page = Page(written(compared(("alone",))))
    assert page.table("Dice (%): mean over patients")[1] == ["Region", "Run", "Mean", "Mean"]
    assert not [c for c in page.captions if "minus" in c or "Published" in c or "Δ" in c]
    assert {a["href"] for a in page.of("a")} == {"#summary", "#means", "#methods", "#compared", "#reproduce"}
    assert page.of("img") == []


def test_undefined_numbers_are_dashes(compared, written):
    comparison = compared(reference="full")
    empty = ["mean", "std", "low", "high"]
    means = comparison.means.copy()
    means.loc[(means["run"] == "drop") & (means["subset"].isin(["t2w", "Avg."])), empty] = np.nan
    differences = comparison.differences.copy()
    differences.loc[:, ["difference", "low", "high", "p", "p_holm"]] = np.nan
    text = written(replace(comparison, means=means, differences=differences))
    page = Page(text)
    rows = page.table("Dice (%), mean over patients")
    assert rows[1][2] == NONE
    assert page.table("Dice (%): drop minus full, each subset")[1][2:6] == [NONE] * 4
    assert page.table("Dice (%): mean over patients")[2][2:5] == [NONE] * 3
    assert "nan" not in {cell.lower() for table in page.tables for row in table for cell in row}
    # An empty cell has no value to be sorted by.
    assert 'data-value="nan"' not in text


def test_the_published_block_says_so_and_brings_its_caveats(compared, written):
    text = written(compared(published="brats2024"))
    block = text[text.index('<section id="published"') : text.index('<section id="methods"')]
    assert "Published, not measured here" in block
    assert "they enter no statistics" in block
    assert "are not the mean of their columns" in block
    assert "Published" not in re.sub(r"<nav.*?</nav>", "", text[: text.index(block)], flags=re.DOTALL)


def test_a_full_disk_leaves_the_old_report(compared, written, tmp_path, monkeypatch):
    comparison = compared(("alone",))
    old = written(comparison)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MSTKDError, match="No space left"):
        written(comparison, command="another")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_names_that_are_no_text_are_written(compared, written):
    assert "compare a? -o b" in written(compared(("alone",)), command="compare a\udcff -o b")


def test_subsets_without_an_incomplete_one(compared, written):
    comparison = compared(reference="full")
    tables = {name: getattr(comparison, name) for name in ("means", "differences")}
    tables = {name: table[table["subset"] != "incomplete"] for name, table in tables.items()}
    assert "“incomplete” of those in which a modality is missing" in written(comparison)
    text = written(replace(comparison, **tables))
    assert Page(text).table("Dice (%): mean over patients")[0] == ["", "All subsets (Avg.)"]
    assert "“incomplete”" not in text
