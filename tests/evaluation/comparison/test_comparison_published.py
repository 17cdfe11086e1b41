"""The published facts, what is wrong with them, and that they stay in their own block."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from comparison_helpers import only, only_subsets, set_model, set_scores

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.published import (
    DATASETS,
    ablation_disagreements,
    caveats,
    read_published,
    repeated_averages,
    wrong_averages,
)
from nnunetv2_mstkd.evaluation.comparison.ranks import SYSTEMS
from nnunetv2_mstkd.evaluation.report.markdown import comparison_markdown
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, all_subsets, format_subset, parse_subset

SHARED = Path(__file__).resolve().parents[4] / "shared" / "paper" / "published_results.csv"
NAMES = {format_subset(s, BRATS_MODALITIES) for s in all_subsets(BRATS_MODALITIES)}


@pytest.mark.skipif(not SHARED.is_file(), reason="needs ../shared/paper/published_results.csv")
def test_every_number_of_the_comparison_tables_is_there():
    theirs = {}
    with SHARED.open() as stream:
        for row in csv.DictReader(stream):
            subset = row["available_modalities"].replace("Avg", "Avg.")
            if subset != "Avg.":
                subset = format_subset(parse_subset(subset, BRATS_MODALITIES), BRATS_MODALITIES)
            key = (row["dataset"].lower(), row["metric"].lower(), row["region"], row["model"], subset)
            theirs[key] = float(row["value"])
    ours = {}
    for dataset in DATASETS:
        table = read_published(dataset)
        for row in table[table["table"] == "comparison"].to_dict("records"):
            ours[(dataset, row["metric"], row["region"], row["method"], row["subset"])] = row["value"]
    assert ours == theirs


@pytest.mark.parametrize("dataset", DATASETS)
def test_tables_are_complete(dataset):
    table = read_published(dataset)
    comparison, ablation = (table[table["table"] == name] for name in ("comparison", "ablation"))
    for _, rows in comparison.groupby(["metric", "region", "method"]):
        assert set(rows["subset"]) == NAMES | {"Avg."}
        assert len(rows) == 16
    assert comparison.groupby(["metric", "region"]).ngroups == 6
    assert len(ablation) == 4 * 6
    assert ablation["delta"].notna().sum() == 3 * 6


@pytest.mark.parametrize("dataset", DATASETS)
def test_printed_differences_of_the_ablation_add_up(dataset):
    table = read_published(dataset)
    ablation = table[table["table"] == "ablation"]
    wide = ablation.pivot(index=["metric", "region"], columns="method", values="value")
    for row in ablation[ablation["delta"].notna()].to_dict("records"):
        values = wide.loc[(row["metric"], row["region"])]
        assert values[row["method"]] - values["Ours"] == pytest.approx(row["delta"], abs=0.051)


def test_averages_that_do_not_add_up_are_found():
    wrong = pd.concat(
        {name: wrong_averages(read_published(name)) for name in DATASETS}, names=["dataset", None]
    )
    found = {tuple(key) for key in wrong.reset_index()[["dataset", "metric", "region", "method"]].to_numpy()}
    whole_tumour = ("RA-HVED", "RMBTS", "mmformer", "M2FTrans", "ACN", "SMUNet")
    assert found == {
        *(("brats2024", "dice", "WT", method) for method in whole_tumour),
        ("brats2024", "dice", "TC", "MST-KDNet"),
        ("brats2024", "dice", "ET", "MST-KDNet"),
        ("fets2024", "dice", "TC", "M2FTrans"),
        ("fets2024", "dice", "ET", "M2FTrans"),
        ("fets2024", "hd95", "TC", "RA-HVED"),
    }


def test_a_wrong_number_changes_what_is_flagged():
    table = read_published("fets2024")
    row = (table["method"] == "ACN") & (table["subset"] == "Avg.") & (table["region"] == "WT")
    table.loc[row, "value"] += 1
    found = wrong_averages(table)
    assert {("dice", "WT", "ACN"), ("hd95", "WT", "ACN")} <= {tuple(r) for r in found.to_numpy()[:, :3]}


def test_columns_that_repeat_an_average():
    repeated = repeated_averages(read_published("brats2024"))
    assert repeated["method"].tolist() == ["RA-HVED", "RMBTS", "mmformer", "M2FTrans", "ACN", "SMUNet"]
    assert set(repeated["metric"] + repeated["region"]) == {"diceWT"}
    assert repeated_averages(read_published("fets2024")).empty


def test_ablation_against_comparison():
    rows = ablation_disagreements(read_published("fets2024")).to_dict("records")
    assert rows == [{"metric": "dice", "region": "WT", "ablation": 88.2, "comparison": 88.4}]
    assert ablation_disagreements(read_published("brats2024")).empty


def test_caveats_say_so():
    text = "\n".join(caveats(read_published("brats2024")))
    assert "8 of 42 printed averages are not the mean of their columns" in text
    assert "Dice WT SMUNet 79.7 (mean " in text
    assert "gives 0 mm when the prediction or the reference is empty" in text
    assert "its HD95 is the nearest to the published one, not the same" in text
    assert "cannot be compared" not in text
    assert "tested on" in text


def test_the_headline_compares_whole_sets_with_averages():
    text = "\n".join(caveats(read_published("brats2024")))
    assert "MST-KDNet's all-modalities Dice (WT 86.8, TC 73.1, ET 73.9) beside SMUNet's averages" in text
    assert "averages over the 15 subsets (WT 79.7, TC 50.7, ET 49.3)" in text
    # The whole set's WT of SMUNet only repeats an average.
    assert "With all modalities SMUNet has TC 69.8, ET 70.8." in text
    assert "(WT 6.6, TC 7.2, ET 6.8 mm) are its averages over the 15 subsets" in text
    assert "has WT 5.3, TC 4.0, ET 3.0 mm" in text
    assert "headline" not in "".join(caveats(read_published("fets2024")))


def test_unknown_dataset():
    with pytest.raises(MSTKDError, match="there are brats2024, fets2024"):
        read_published("brats2020")


class TestBlock:
    @pytest.fixture
    def folders(self, evaluation):
        return [evaluation("a"), evaluation("b", seed=1)]

    def test_only_when_asked_for(self, folders, compare):
        assert "ublished" not in comparison_markdown(compare(*folders, ablation=True), "c")

    def test_marked_and_apart(self, folders, compare):
        text = comparison_markdown(compare(*folders, published="brats2024"), "c")
        before, block = text.split("## Published numbers, BraTS 2024")
        assert "SMUNet" not in before
        block = block.split("\n## ")[0]
        headings = [line for line in block.splitlines() if line.startswith("#")]
        assert headings == [
            "### Published, not measured here: Dice (%), BraTS 2024",
            "### Published, not measured here: HD95 (mm), BraTS 2024",
        ]
        line = next(line for line in block.splitlines() if line.startswith("| TC | SMUNet |"))
        cells = line.strip("| ").split(" | ")
        assert (cells[2], cells[-2], cells[-1]) == ("29.3", "69.8", "50.7")

    def test_the_ablation_beside_its_own_kind(self, folders, compare):
        text = comparison_markdown(compare(*folders, published="fets2024", ablation=True), "c")
        assert "| w/o MS-TKD (published) | 87.0 | -1.2 | 81.8 | -2.5 |" in text
        assert text.index("## Ablation") < text.index("## Published numbers")

    def test_they_change_no_statistics(self, folders, compare):
        plain, beside = compare(*folders), compare(*folders, published="brats2024")
        assert plain.means.equals(beside.means)
        assert plain.differences.equals(beside.differences)


class TestRanks:
    """Systems that were both published and measured, by their means over the incomplete subsets."""

    @pytest.fixture
    def folders(self, evaluation):
        def of(trainer, gain):
            return set_model(evaluation(trainer, gain=gain), f"nnUNetTrainer{trainer}")

        return [of("ModalityDropout", 0.2), of("ACN", 0.15), of("MSTKD", 0.1), of("RMBTS", 0.0)]

    def test_only_of_published_systems_and_beside_published_numbers(self, folders, compare):
        assert compare(*folders).ranks is None
        assert compare(*folders[:2], published="brats2024").ranks is None
        ranks = compare(*folders, published="brats2024").ranks
        assert set(ranks["system"]) == {"ACN", "MST-KDNet", "RMBTS"}
        assert len(ranks) == 2 * 3 * 3

    def test_against_a_mean_by_hand(self, folders, compare):
        comparison = compare(*folders, published="brats2024")
        rows = comparison.published.query(
            "table == 'comparison' and metric == 'hd95' and region == 'TC' and method == 'ACN'"
            " and subset not in ('Avg.', 't1n+t1c+t2w+t2f')"
        )
        assert len(rows) == 14
        row = only(comparison.ranks, metric="hd95", region="TC", system="ACN")
        assert row["published"] == pytest.approx(rows["value"].mean())
        measured = only(comparison.means, metric="hd95", region="TC", run="ACN", subset="incomplete")
        assert row["measured"] == pytest.approx(measured["mean"])
        assert row["subsets"] == 14

    @pytest.mark.parametrize("kept", [["t1c", "t1n+t1c+t2w+t2f"], ["t1c"]], ids=["and all", "alone"])
    def test_both_means_are_over_what_was_evaluated(self, folders, compare, kept):
        for folder in folders:
            only_subsets(folder, kept)
        comparison = compare(*folders, published="brats2024")
        published = only(comparison.published, metric="dice", region="WT", method="ACN", subset="t1c")
        measured = only(comparison.means, metric="dice", region="WT", run="ACN", subset="t1c")
        row = only(comparison.ranks, metric="dice", region="WT", system="ACN")
        assert (row["published"], row["measured"], row["subsets"]) == (
            published["value"],
            measured["mean"],
            1,
        )

    def test_all_incomplete_subsets_without_the_whole_set(self, folders, compare):
        whole = "t1n+t1c+t2w+t2f"
        with_it = compare(*folders, published="brats2024").ranks
        for folder in folders:
            only_subsets(folder, [s for s in compare(folder).subsets if s != whole])
        pd.testing.assert_frame_equal(compare(*folders, published="brats2024").ranks, with_it)

    def test_of_the_whole_set_alone_there_are_none(self, folders, compare):
        for folder in folders:
            only_subsets(folder, ["t1n+t1c+t2w+t2f"])
        comparison = compare(*folders, published="brats2024")
        assert comparison.ranks is None
        block = comparison_markdown(comparison, "c").split("## Published and measured ranks")[1]
        assert block.strip().startswith("There are none: under no published subset with a modality missing")

    def test_the_order_of_channels_does_not_matter(self, evaluation, compare):
        def ranks(modalities, where):
            made = [
                set_model(
                    evaluation(f"{where}/{trainer}", gain=gain, modalities=modalities),
                    f"nnUNetTrainer{trainer}",
                )
                for trainer, gain in (("ACN", 0.1), ("MSTKD", 0.0))
            ]
            return compare(*made, published="brats2024").ranks

        columns = ["system", "subsets", "published", "published_rank"]
        backwards = ranks(BRATS_MODALITIES[::-1], "backwards")
        pd.testing.assert_frame_equal(backwards[columns], ranks(BRATS_MODALITIES, "as published")[columns])

    def test_a_subset_that_a_system_has_no_score_under_counts_for_none(self, folders, compare):
        for_none = {case: float("nan") for case in compare(folders[0]).scores["case"].unique()}
        set_scores(folders[1], for_none, subset="t2w", region="WT")
        ranks = compare(*folders, published="brats2024").ranks
        of_dice = ranks[ranks["metric"] == "dice"]
        assert set(of_dice[of_dice["region"] == "WT"]["subsets"]) == {13}
        assert set(of_dice[of_dice["region"] != "WT"]["subsets"]) == {14}

    @pytest.mark.parametrize("metric", ["dice", "hd95"])
    def test_the_best_is_first_on_either_side(self, folders, compare, metric):
        ranks = compare(*folders, published="brats2024").ranks
        table = ranks[(ranks["metric"] == metric) & (ranks["region"] == "WT")]
        assert dict(zip(table["system"], table["measured_rank"], strict=True)) == {
            "ACN": 1,
            "MST-KDNet": 2,
            "RMBTS": 3,
        }
        assert list(table["published_rank"]) == [1, 2, 3]
        assert table["system"].iloc[0] == "MST-KDNet"

    def test_printed_with_what_differs(self, folders, compare):
        text = comparison_markdown(compare(*folders, published="brats2024"), "c")
        block = text.split("## Published and measured ranks")[1].split("\n## ")[0]
        assert "| WT | MST-KDNet | MSTKD |" in block
        assert "Data, training budget and pipeline differ" in block

    def test_the_systems_are_trainers_and_published_names(self):
        assert set(SYSTEMS) <= set(methods.__all__)
        assert set(SYSTEMS.values()) == set(
            read_published("brats2024").query("table == 'comparison'")["method"]
        )
