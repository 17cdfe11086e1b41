"""Means and differences of hand-made scores; the layout of the tables."""

import numpy as np
import pytest
from comparison_helpers import (
    change_metrics,
    change_record,
    join_patients,
    only,
    remove_modality,
    remove_rows,
    set_model,
    set_scores,
)
from scipy.stats import wilcoxon

from nnunetv2_mstkd.evaluation.comparison.statistics import holm
from nnunetv2_mstkd.evaluation.report.cells import NONE
from nnunetv2_mstkd.evaluation.report.markdown import comparison_markdown, table_markdown
from nnunetv2_mstkd.evaluation.report.measured import means

CASES = [f"P-{number:03d}-000" for number in range(6)]
WT_AVERAGE = {"region": "WT", "subset": "Avg.", "metric": "dice"}


def printed_means(comparison, metric="dice"):
    """The lines of the table of means: head, rule, rows."""
    table = means(comparison)[comparison.metrics.index(metric)]
    return table_markdown(table)[-1].splitlines()


@pytest.fixture
def two(evaluation):
    """Two evaluations whose Dice is 0.5 everywhere."""
    folders = [evaluation("a"), evaluation("b", seed=1)]
    for folder in folders:
        change_metrics(folder, lambda table: table.assign(dice=0.5))
    return folders


class TestDifferences:
    def test_paired_per_patient(self, two, compare):
        set_scores(two[1], dict(zip(CASES, (0.6, 0.7, 0.5, 0.4, 0.9, 0.65), strict=True)), region="WT")
        row = only(compare(*two).differences, **WT_AVERAGE)
        steps = np.array([0.1, 0.2, 0.0, -0.1, 0.4, 0.15])
        assert row["difference"] == pytest.approx(steps.mean())
        assert (row["wins"], row["ties"], row["losses"], row["patients"]) == (4, 1, 1, 6)
        ranked = np.round(steps[steps != 0], 10)
        assert row["p"] == pytest.approx(wilcoxon(ranked).pvalue)
        assert row["low"] < steps.mean() < row["high"]

    def test_cases_of_a_patient_are_averaged_first(self, two, compare):
        for folder in two:
            join_patients(folder, CASES[:3], "Q")
        set_scores(two[1], dict(zip(CASES, (0.8, 0.5, 0.5, 0.9, 0.5, 0.5), strict=True)))
        both = compare(*two)
        row = only(both.differences, **WT_AVERAGE)
        assert row["patients"] == 4
        assert row["difference"] == pytest.approx((0.1 + 0.4 + 0 + 0) / 4)
        mean = only(both.means, run="b", **WT_AVERAGE)
        assert (mean["mean"], mean["n"]) == (pytest.approx((0.6 + 0.9 + 0.5 + 0.5) / 4), 4)
        assert mean["std"] == pytest.approx(np.std([0.6, 0.9, 0.5, 0.5], ddof=1))

    def test_summaries_are_means_of_subsets(self, two, compare):
        set_scores(two[1], dict.fromkeys(CASES, 0.8), subset="t1n+t1c+t2w+t2f")
        set_scores(two[1], dict.fromkeys(CASES, 0.6), subset="t1c")
        table = compare(*two).differences
        where = {"region": "WT", "metric": "dice"}
        assert only(table, subset="Avg.", **where)["difference"] == pytest.approx((0.3 + 0.1) / 15)
        assert only(table, subset="incomplete", **where)["difference"] == pytest.approx(0.1 / 14)
        assert only(table, subset="t1c", **where)["difference"] == pytest.approx(0.1)

    def test_less_is_better_for_distances(self, two, compare):
        change_metrics(two[0], lambda table: table.assign(hd95=5.0))
        change_metrics(two[1], lambda table: table.assign(hd95=4.0))
        row = only(compare(*two).differences, region="WT", subset="Avg.", metric="hd95")
        assert (row["difference"], row["wins"], row["losses"]) == (-1, 6, 0)

    def test_pairs_with_nan_are_left_out(self, evaluation, compare):
        folders = [evaluation(name, policy="nnunet", seed=seed) for seed, name in enumerate("ab")]
        for folder in folders:
            change_metrics(folder, lambda table: table.assign(dice=0.5))
        set_scores(folders[1], dict.fromkeys(CASES, 0.7))
        set_scores(folders[0], {CASES[0]: np.nan}, region="WT")
        set_scores(folders[1], {CASES[1]: np.nan}, region="WT", subset="t1c")
        both = compare(*folders)
        assert only(both.differences, **WT_AVERAGE)["patients"] == 5
        assert only(both.differences, **WT_AVERAGE | {"subset": "t1c"})["patients"] == 4
        assert only(both.differences, **WT_AVERAGE)["difference"] == pytest.approx(0.2)
        assert only(both.differences, **WT_AVERAGE | {"region": "TC"})["patients"] == 6
        assert only(both.means, run="a", **WT_AVERAGE)["n"] == 5

    @pytest.mark.parametrize("finished", ["without those rows", "with those rows"])
    def test_a_case_counts_where_it_has_the_modalities(self, two, compare, finished):
        """The second evaluation is one of finished segmentations, which lists no images."""
        remove_modality(two[0], CASES[0], "t2w")
        set_scores(two[1], {CASES[0]: 0.8})
        if finished == "without those rows":
            remove_rows(two[1], CASES[0], "t2w")
        both = compare(*two)
        for subset, patients in (("t1c", 6), ("t2w", 5), ("t1c+t2w", 5), ("t1n+t1c+t2w+t2f", 5), ("Avg.", 6)):
            assert only(both.differences, **WT_AVERAGE | {"subset": subset})["patients"] == patients
            assert only(both.means, run="b", **WT_AVERAGE | {"subset": subset})["n"] == patients
        assert only(both.means, run="b", **WT_AVERAGE | {"subset": "t1c+t2w"})["mean"] == pytest.approx(0.5)
        assert only(both.differences, **WT_AVERAGE)["difference"] == pytest.approx(0.3 / 6)

    def test_equal_runs(self, two, compare):
        row = only(compare(*two).differences, **WT_AVERAGE)
        assert (row["difference"], row["low"], row["high"], row["p"], row["ties"]) == (0, 0, 0, 1, 6)

    def test_one_patient_has_no_interval(self, evaluation, compare):
        both = compare(evaluation("a", patients=1), evaluation("b", patients=1, gain=0.1))
        row = only(both.differences, **WT_AVERAGE)
        assert (row["p"], row["patients"]) == (1, 1)
        assert np.isnan(row[["low", "high"]].astype(float)).all()

    def test_holm_goes_over_the_rows_of_each_printed_table(self, evaluation, compare):
        folders = [evaluation(name, seed=seed, patients=8) for seed, name in enumerate("abc")]
        table = compare(*folders, reference="b").differences
        summary = table["subset"].isin(["Avg.", "incomplete"])
        dice = table["metric"] == "dice"
        families = [table[summary & dice], table[~summary & dice & (table["run"] == "c")]]
        assert [len(family) for family in families] == [2 * 3 * 2, 3 * 15]
        for family in families:
            assert family["p_holm"].to_numpy() == pytest.approx(holm(family["p"].to_numpy()))
        assert set(table["run"]) == {"a", "c"}

    def test_the_seed_decides_the_interval(self, evaluation, compare):
        folders = [evaluation("a"), evaluation("b", seed=1)]
        first, again, other = (compare(*folders, seed=seed).differences for seed in (0, 0, 1))
        assert first.equals(again)
        assert not first["low"].equals(other["low"])
        assert first["p"].equals(other["p"])


class TestLayout:
    def test_columns_are_the_published_ones(self, evaluation, compare):
        head, _, *rows = printed_means(compare(evaluation("a"), names=["x"]))
        assert head == (
            "| Region | Run | t2w | t1c | t1n | t2f | t1c+t2w | t1n+t1c | t1n+t2f | t1n+t2w | t2w+t2f"
            " | t1c+t2f | t1n+t1c+t2f | t1n+t2w+t2f | t1c+t2w+t2f | t1n+t1c+t2w | t1n+t1c+t2w+t2f | Avg. |"
        )
        assert [line.split(" | ")[0].strip("| ") for line in rows] == ["WT", "TC", "ET"]

    def test_printed_numbers_are_the_means(self, two, compare):
        set_scores(two[0], dict.fromkeys(CASES, 0.8125), subset="t1c")
        row = printed_means(compare(two[0]))[2].strip("| ").split(" | ")
        assert row[2:5] == ["50.0", "81.2", "50.0"]
        assert row[-1] == f"{(14 * 50 + 81.25) / 15:.1f}"

    def test_other_modalities(self, evaluation, compare):
        comparison = compare(evaluation("a", modalities=("ADC", "T2", "DCE")))
        header = printed_means(comparison, "hd95")[0]
        assert header == "| Region | Run | ADC | T2 | DCE | ADC+T2 | ADC+DCE | T2+DCE | ADC+T2+DCE | Avg. |"

    def test_no_incomplete_rows_for_the_whole_set_alone(self, evaluation, compare):
        a = evaluation("a")
        change_record(a, subsets=["t1n+t1c+t2w+t2f"])
        change_metrics(a, lambda table: table[table["subset"] == "t1n+t1c+t2w+t2f"])
        assert compare(a).means["subset"].unique().tolist() == ["Avg.", "t1n+t1c+t2w+t2f"]

    def test_no_incomplete_rows_where_they_are_all(self, evaluation, compare):
        """They would be the average a second time, and a second test for Holm's correction."""
        a = evaluation("a")
        change_record(a, subsets=["t1c", "t1c+t2f"])
        change_metrics(a, lambda table: table[table["subset"].isin(["t1c", "t1c+t2f"])])
        assert compare(a).means["subset"].unique().tolist() == ["Avg.", "t1c", "t1c+t2f"]

    def test_ablations_that_would_be_called_alike_keep_their_names(self, evaluation, compare):
        folders = [evaluation(name, seed=n) for n, name in enumerate("abc")]
        names = ["MSTKD", "small/MSTKD_woGSME", "large/MSTKD_woGSME"]
        table = compare(*folders, names=names, reference="MSTKD", ablation=True).ablation
        assert table["method"].tolist() == [*names[1:], "MSTKD"]

    def test_lesion_scores_where_they_are(self, evaluation, compare):
        a = evaluation("a")
        change_record(a, lesionwise="brats2023")
        change_metrics(a, lambda table: table.assign(lesion_dice=0.25, lesion_hd95=9.0))
        comparison = compare(a)
        assert comparison.metrics == ("dice", "hd95", "lesion_dice", "lesion_hd95")
        assert "### Lesion-wise Dice (%), mean over patients" in comparison_markdown(comparison, "c")
        assert only(comparison.means, **WT_AVERAGE | {"metric": "lesion_dice"})["mean"] == 0.25

    def test_names_cannot_break_a_table(self, evaluation, compare):
        assert printed_means(compare(evaluation("a"), names=["x|y"]))[2].startswith("| WT | x\\|y |")


class TestAblation:
    @pytest.fixture
    def table(self, two, evaluation, compare):
        third = set_model(evaluation("c"), "nnUNetTrainerMSTKD_woGSME")
        set_model(two[0], "nnUNetTrainerMSTKD_PlainStudent")
        for folder, dice in zip((*two, third), (0.5, 0.75, 0.7), strict=True):
            change_metrics(folder, lambda table, dice=dice: table.assign(dice=dice, hd95=10 * dice))
        return compare(*two, third, reference="MSTKD", ablation=True)

    def test_the_full_method_is_last_and_the_others_differ_from_it(self, table):
        rows = table.ablation
        assert rows["method"].tolist() == ["MSTKD_PlainStudent", "w/o GSME", "MSTKD"]
        assert rows["ET Dice (%)"].tolist() == pytest.approx([50, 70, 75])
        assert rows["Δ ET Dice (%)"].tolist()[:2] == pytest.approx([-25, -5])
        assert rows["Δ WT HD95 (mm)"].tolist()[:2] == pytest.approx([-2.5, -0.5])
        assert np.isnan(rows["Δ WT HD95 (mm)"].iloc[2])

    def test_published_layout(self, table):
        text = comparison_markdown(table, "c")
        assert (
            "| Method | WT Dice (%) | Δ | TC Dice (%) | Δ | ET Dice (%) | Δ"
            " | WT HD95 (mm) | Δ | TC HD95 (mm) | Δ | ET HD95 (mm) | Δ |"
        ) in text
        assert "| w/o GSME | 70.0 | -5.0 | 70.0 | -5.0 | 70.0 | -5.0 | 7.0 | -0.5 |" in text
        assert f"| **MSTKD** | **75.0** | {NONE} |" in text
