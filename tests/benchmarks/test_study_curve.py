"""Tables of the arms by length of training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from benchmarks.study.arms import BAR, METHOD
from benchmarks.study.challengers import CHALLENGERS
from benchmarks.study.curve import curve_tables
from benchmarks.study.parts import ALL_ARMS, PARTS
from benchmarks.study.scores import INCOMPLETE, Difference


def found(part, **scores):
    """A part's first comparison, with Dice over the incomplete subsets by key of the arm."""
    of = {ALL_ARMS[key].title: value for key, value in scores.items()}
    bar = ALL_ARMS[BAR].title
    comparison = SimpleNamespace(
        names=list(of),
        count=4,
        means=pd.DataFrame({INCOMPLETE: of, 4: {name: value + 0.1 for name, value in of.items()}}),
        by_patient={name: np.zeros((2, 5, 5)) for name in of},
        differences=lambda _: {n: Difference(v - of[bar], -0.01, 0.01, 1.0) for n, v in of.items()},
    )
    return PARTS[part], PARTS[part].comparisons[0], comparison


def cells(lines, name):
    """Of each table the cells of an arm's row."""
    return [line.split(" | ")[1:] for line in lines if line.startswith(f"| {name} |")]


def test_arms_with_several_lengths_stand_in_order_of_length():
    parts = [
        found("main", **{BAR: 0.40, METHOD: 0.38, "joint": 0.3}),
        found("double", **{BAR: 0.50, METHOD: 0.51}),
        found("short", **{BAR: 0.20}),
        found("challengers", **{BAR: 0.99, "bar_conditioned": 0.41}),
        found("half", **{BAR: 0.30, "bar_conditioned": 0.31}),
    ]
    lines = curve_tables(parts)
    assert cells(lines, ALL_ARMS[BAR].title) == [
        ["20.0 (2)", "30.0 (2)", "40.0 (2)", "50.0 (2) |"],
        ["30.0 (2)", "40.0 (2)", "50.0 (2)", "60.0 (2) |"],
    ]
    assert cells(lines, ALL_ARMS[METHOD].title)[2] == [
        "-",
        "-",
        "-2.0 [-1.0, +1.0], p = 1",
        "+1.0 [-1.0, +1.0], p = 1 |",
    ]
    assert cells(lines, CHALLENGERS["bar_conditioned"].title)[0] == ["-", "31.0 (2)", "41.0 (2)", "- |"]
    assert not cells(lines, ALL_ARMS["joint"].title)
    assert "| inc | a quarter of the steps | half the steps | all steps | twice the steps |" in lines


def test_one_length_makes_no_curve():
    assert curve_tables([found("main", **{BAR: 0.4, METHOD: 0.3})]) == []
    assert curve_tables([found("few_labels", **{BAR: 0.4}), found("main", **{BAR: 0.4})]) == []
