"""Scores of a study: tables from its folder and, when that is gone, from the file that was kept."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.study.kept import keep, read_kept
from benchmarks.study.results import main, score_table, tables
from benchmarks.study.scores import INCOMPLETE, Scores

SUBSETS = ["+".join(names) for n in range(1, 4) for names in combinations(("a", "b", "c"), n)]


def scores() -> Scores:
    """Two rounds of the reference, three of another way."""
    draw = np.random.default_rng(0)
    rows = [
        (way, rnd, patient, region, subset, round(float(draw.random()), 4))
        for way, rounds in (("other", 3), ("the bar", 2))
        for rnd in range(rounds)
        for patient in ("P9", "P1", "P5")
        for region in ("WT", "ET")
        for subset in SUBSETS
    ]
    columns = ["way", "round", "patient", "region", "subset", "dice"]
    return Scores(pd.DataFrame(rows, columns=columns), "the bar", 3)


def test_means_and_differences_are_those_of_the_rows():
    found = scores()
    rows = found.table[(found.table["way"] == "other") & (found.table["subset"] != "a+b+c")]
    assert found.means.loc["other", INCOMPLETE] == pytest.approx(rows["dice"].mean())
    assert found.by_patient["other"].shape == (3, 3, 4)
    assert found.incomplete == 6
    by_round = rows.groupby("round")["dice"].mean()
    assert found.seed_std("other") == pytest.approx(by_round.std(ddof=1))
    (name, difference), *more = found.differences(1).items()
    single = found.table[~found.table["subset"].str.contains("+", regex=False)]
    means = single.groupby("way")["dice"].mean()
    assert (name, more) == ("other", [])
    assert difference.mean == pytest.approx(means["other"] - means["the bar"])
    assert difference.low <= difference.mean <= difference.high
    of_region = found.region_differences()["ET"]["other"]
    wanted = found.table[(found.table["region"] == "ET") & (found.table["subset"] != "a+b+c")]
    means = wanted.groupby("way")["dice"].mean()
    assert of_region.mean == pytest.approx(means["other"] - means["the bar"])


def test_a_kept_file_gives_the_same_tables_and_no_names(tmp_path, capsys):
    path = tmp_path / "scores.csv"
    keep(scores(), path)
    assert "P9" not in path.read_text()
    again = read_kept(path)
    assert again.names == ["the bar", "other"]
    assert sorted(tables(again)) == sorted(tables(scores()))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == tables(again)


@pytest.mark.parametrize("content", ["way,round\nx,1\n", '"', ""])
def test_another_file_is_refused_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "give a file of benchmarks.study.results --keep" in error


def test_one_round_has_no_spread():
    found = scores()
    only = Scores(found.table[found.table["round"] == 0], "the bar", 3)
    assert all(row.endswith("| - |") for row in score_table(only)[2:-1])


EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


@pytest.mark.parametrize("name", sorted(path.stem for path in (EVIDENCE / "scores").glob("2026-12-*.csv")))
def test_the_tables_of_the_evidence_are_those_of_the_kept_scores(name):
    """Whoever doubts a number of the docs can compute it again."""
    pages = "\n".join(path.read_text() for path in sorted(EVIDENCE.glob("2026-12-*.md")))
    lines = [line for line in tables(read_kept(EVIDENCE / "scores" / f"{name}.csv")) if line.startswith("|")]
    assert len(lines) >= 10
    assert set(lines) <= set(pages.replace("\N{MINUS SIGN}", "-").splitlines())
