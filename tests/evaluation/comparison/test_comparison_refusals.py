"""What cannot be compared is refused, and the message says what differs."""

import numpy as np
import pytest
from comparison_helpers import change_metrics, change_record, join_patients, remove_rows, set_model

from nnunetv2_mstkd.errors import MSTKDError


@pytest.fixture
def refused(evaluation, compare):
    """``refused(pattern, change=..., **options)``: b differs from a, and the comparison says how."""

    def check(pattern, *, change=lambda folder: None, **options):
        a, b = evaluation("a"), evaluation("b", **options)
        compare(a)
        change(b)
        with pytest.raises(MSTKDError, match=pattern):
            compare(a, b)

    return check


class TestDifferentRules:
    def test_cases(self, refused):
        refused(
            r"different cases in 'a' \(6\) and 'b' \(6\): 2 only in 'a' \(P-000-000, P-001-000\),"
            r" 2 only in 'b' \(P-006-000, P-007-000\)",
            first_patient=2,
        )

    def test_many_cases_are_not_all_printed(self, refused):
        refused(r"8 only in 'b' \(P-006-000, P-007-000, P-008-000, …\)", patients=14)

    def test_policy(self, refused):
        refused(r"different empty-mask policies: .*/a has brats, .*/b has nnunet", policy="nnunet")

    def test_modalities(self, refused):
        refused("different modalities: .* has t1n, t1c, t2w, t2f, .* has t1c, t2f", modalities=("t1c", "t2f"))

    def test_order_of_modalities(self, refused):
        refused("different modalities: .* has t2f, t1n, t1c, t2w", modalities=("t2f", "t1n", "t1c", "t2w"))

    def test_regions(self, refused):
        refused(
            r"different regions: .* has ET=3, TC=1\+3, WT=1\+2\+3, .* has ET=4, ",
            change=lambda b: change_record(b, regions={"WT": [1, 2, 3], "TC": [1, 3], "ET": [4]}),
        )

    def test_subsets(self, refused):
        refused(
            r"different subsets in .*/a \(15\) and .*/b \(2\): 13 only in .*/a \(t1c\+t2f, ",
            change=lambda b: change_record(b, subsets=["t1c", "t2f"]),
        )

    def test_lesionwise_rules(self, refused):
        refused(
            "different lesion-wise rules: .* has None, .* has brats2023",
            change=lambda b: change_record(b, lesionwise="brats2023"),
        )

    def test_patients(self, refused):
        refused(
            r"different patients: case P-000-000 is of P-000 in 'a' and of Q in 'b' \(2 such cases\)",
            change=lambda b: join_patients(b, ["P-000-000", "P-001-000"], "Q"),
        )

    def test_reference_segmentations(self, refused):
        def other_reference(table):
            rows = (table["case"] == "P-003-000") & (table["region"] == "ET")
            table.loc[rows, "volume_reference"] += 5
            return table

        refused(
            r"different reference segmentations: the volumes of 1 cases differ \(first: P-003-000\)",
            change=lambda b: change_metrics(b, other_reference),
        )

    def test_order_of_regions_and_subsets_does_not_matter(self, evaluation, compare):
        a, b = evaluation("a"), evaluation("b")
        expected = compare(a, names=["x"])
        change_metrics(b, lambda table: table.sample(frac=1, random_state=0))
        change_record(b, regions={"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]})
        both = compare(a, b, names=["x", "y"])
        for name in ("x", "y"):
            mine = both.means[both.means["run"] == name].drop(columns="run").reset_index(drop=True)
            assert mine.equals(expected.means.drop(columns="run"))


class TestUnfinished:
    def test_rows_are_missing(self, refused):
        refused(
            r"metrics in .*/b have 45 of 270 rows that are not there: the evaluation did not end"
            r".*first: P-002-000, t1c, ET",
            change=lambda b: change_metrics(b, lambda t: t[t["case"] != "P-002-000"]),
        )

    def test_more_rows_than_the_record_says(self, evaluation, compare):
        a, b = evaluation("a"), evaluation("b", first_patient=9, patients=1)
        more = [path.joinpath("metrics.csv").read_text().splitlines() for path in (a, b)]
        (a / "metrics.csv").write_text("\n".join(more[0] + more[1][1:]))
        with pytest.raises(MSTKDError, match=r"45 of 270 rows that are foreign to its record.*P-009-000"):
            compare(a)

    def test_rows_are_there_twice(self, evaluation, compare):
        a = evaluation("a")
        lines = (a / "metrics.csv").read_text().splitlines()
        (a / "metrics.csv").write_text("\n".join([*lines, lines[-1]]))
        with pytest.raises(MSTKDError, match="1 of 270 rows that are there twice"):
            compare(a)

    def test_rows_of_modalities_that_a_case_has(self, refused):
        refused(
            "24 of 270 rows that are not there",
            change=lambda b: remove_rows(b, "P-002-000", "t1n"),
        )

    def test_no_table_yet(self, refused):
        refused("its evaluation did not end", change=lambda b: (b / "metrics.csv").unlink())

    def test_rows_of_another_policy(self, refused):
        refused(
            "rows of policy nnunet, its record says brats",
            change=lambda b: change_metrics(b, lambda t: t.assign(policy="nnunet")),
        )

    def test_a_column_of_words(self, refused):
        refused(
            "column hd95 of the metrics in .*/b is not numeric",
            change=lambda b: change_metrics(b, lambda t: t.assign(hd95="far")),
        )

    @pytest.mark.parametrize(("column", "value"), [("dice", np.inf), ("hd95", -np.inf)])
    def test_infinite_scores(self, refused, column, value):
        def change(table):
            table.loc[3, column] = value
            return table

        refused(
            rf"column {column} of the metrics in .*/b is infinite in 1 of 270 rows"
            r" \(first: P-000-000, t1c, WT\)",
            change=lambda b: change_metrics(b, change),
        )

    def test_every_case_failed(self, refused):
        refused(
            "the metrics in .*/b have no rows: nothing was scored",
            change=lambda b: change_metrics(b, lambda t: t[:0]),
        )

    def test_lesion_scores_that_the_record_promises(self, evaluation, compare):
        a = evaluation("a")
        change_record(a, lesionwise="brats2023")
        with pytest.raises(MSTKDError, match=r"column lesion_dice of the metrics in .*/a is missing"):
            compare(a)


class TestOneRun:
    def test_partial_overlap(self, evaluation, compare):
        a, b = evaluation("a"), evaluation("b", first_patient=4, seed=1)
        with pytest.raises(
            MSTKDError, match=r"share 2 of 10 cases \(P-004-000, P-005-000\); folds share none"
        ):
            compare(f"{a},{b}")

    def test_methods_are_not_averaged_as_seeds(self, evaluation, compare):
        a, b = evaluation("all/a"), set_model(evaluation("all/b"), "nnUNetTrainer")
        with pytest.raises(
            MSTKDError, match=r"joins different methods \(trainer: nnUNetTrainerMSTKD in .*/a,"
        ):
            compare(a.parent)
        assert len(compare(a, b).runs) == 2

    def test_settings_make_a_method_but_a_seed_does_not(self, evaluation, compare):
        folders = [evaluation(name, seed=number) for number, name in enumerate("abc")]
        for number, folder in enumerate(folders[:2]):
            settings = {"seed": number, "teacher": "joint"}
            set_model(folder, "nnUNetTrainerMSTKD", plans=f"seed{number}Plans", settings=settings)
        settings = {"seed": 2, "teacher": "shared"}
        set_model(folders[2], "nnUNetTrainerMSTKD", plans="seed2Plans", settings=settings)
        compare(f"{folders[0]},{folders[1]}")
        with pytest.raises(MSTKDError, match=r"joins different methods \(settings"):
            compare(f"{folders[0]},{folders[2]}")

    def test_plans_make_a_method_where_no_seed_is_set(self, evaluation, compare):
        folders = [set_model(evaluation(p), "nnUNetTrainer", plans=p) for p in ("nnUNetPlans", "ResEncPlans")]
        with pytest.raises(MSTKDError, match=r"joins different methods \(plans: nnUNetPlans in"):
            compare(",".join(map(str, folders)))

    def test_seeds_over_different_references(self, evaluation, compare):
        a, b = evaluation("a"), evaluation("b", seed=1)
        change_metrics(b, lambda t: t.assign(volume_reference=2 * t["volume_reference"]))
        with pytest.raises(MSTKDError, match="different reference segmentations: the volumes of 6 cases"):
            compare(f"{a},{b}")


def test_ablation_needs_something_to_set_beside(evaluation, compare):
    with pytest.raises(MSTKDError, match="at least two runs"):
        compare(evaluation("a"), ablation=True)


def test_one_run_has_means_and_no_differences(evaluation, compare):
    alone = compare(evaluation("a"))
    assert alone.differences.empty
    assert list(alone.differences.columns)[:5] == ["run", "region", "subset", "metric", "difference"]
    assert not np.isnan(alone.means["mean"]).any()


class TestCasesLeftOut:
    def test_a_case_without_scores_can_be_left_out(self, evaluation, compare):
        a, b, c = evaluation("a"), evaluation("b"), evaluation("c", gain=0.1)
        remove_rows(b, "P-002-000", "t1c")
        with pytest.raises(MSTKDError, match=r"leave cases out of every run \(--without\).*P-002-000"):
            compare(a, b, c)
        comparison = compare(a, b, c, without=["P-002-000"])
        assert comparison.without == ("P-002-000",)
        assert set(comparison.scores["case"]) == {f"P-00{i}-000" for i in (0, 1, 3, 4, 5)}
        expected = compare(a, c)
        whole = expected.scores[expected.scores["case"] != "P-002-000"]
        means = [t.groupby("run")["dice"].mean() for t in (whole, comparison.scores)]
        assert means[1]["c"] == pytest.approx(means[0]["c"])

    def test_an_unknown_case(self, evaluation, compare):
        with pytest.raises(MSTKDError, match="--without P-2: no run has this case"):
            compare(evaluation("a"), without=["P-2"])

    def test_every_case(self, evaluation, compare):
        with pytest.raises(MSTKDError, match=r"--without leaves no case of .*/a"):
            compare(evaluation("a", patients=2), without=["P-000-000", "P-001-000"])


class TestSegmentationsOfTools:
    """They have no trainer; only the names of their folders tell them apart."""

    @staticmethod
    def named(folder, name):
        change_record(folder, model={"id": name, "name": name, "folder": f"/{name}"})
        return folder

    def test_two_tools_are_not_seeds_of_one(self, evaluation, compare):
        a, b = self.named(evaluation("a"), "rfnet"), self.named(evaluation("b"), "mmformer")
        with pytest.raises(MSTKDError, match=r"joins different methods \(name: rfnet .*, mmformer "):
            compare(f"{a},{b}")

    def test_numbered_folders_are(self, evaluation, compare):
        a, b = (
            self.named(evaluation("a"), "rfnet_seed_1"),
            self.named(evaluation("b", seed=1), "rfnet_seed_2"),
        )
        assert compare(f"{a},{b}").means["seeds"].max() == 2

    def test_an_ensemble_is_not_a_seed_of_a_single_model(self, evaluation, compare):
        a = set_model(evaluation("a"), "nnUNetTrainerMSTKD", folds=[0])
        b = set_model(evaluation("b"), "nnUNetTrainerMSTKD", folds=[0, 1, 2])
        with pytest.raises(MSTKDError, match=r"joins different methods \(number of folds: 1 .*, 3 "):
            compare(f"{a},{b}")
