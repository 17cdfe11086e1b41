"""What a RUN argument means, default names, folds concatenated and seeds averaged."""

import numpy as np
import pytest
from comparison_helpers import change_record, join_patients, only, set_model

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.loading import find_run, load_runs


def names_of(*arguments):
    return [run.name for run in load_runs([str(argument) for argument in arguments])]


class TestFolders:
    def test_a_folder_of_evaluations_is_one_run(self, evaluation, tmp_path):
        for fold in (0, 1, 2):
            evaluation(f"cv/fold_{fold}", patients=2, first_patient=2 * fold, seed=fold)
        (tmp_path / "cv" / "notes").mkdir()
        (run,) = load_runs([str(tmp_path / "cv")])
        assert [e.folder.name for e in run.evaluations] == ["fold_0", "fold_1", "fold_2"]

    def test_commas_join(self, evaluation):
        a, b = evaluation("a"), evaluation("b", seed=1)
        (run,) = load_runs([f"{a},{b}"])
        assert len(run.evaluations) == 2

    def test_a_folder_whose_name_has_a_comma(self, evaluation):
        (run,) = load_runs([str(evaluation("lr=1,wd=2"))])
        assert run.evaluations[0].folder.name == "lr=1,wd=2"

    @pytest.mark.parametrize("name", ["empty", "missing"])
    def test_no_evaluation(self, tmp_path, name):
        (tmp_path / "empty").mkdir()
        with pytest.raises(MSTKDError, match=r"has no evaluation\.json"):
            load_runs([str(tmp_path / name)])

    def test_the_same_evaluation_twice(self, evaluation):
        a = evaluation("a")
        with pytest.raises(MSTKDError, match="given 2 times"):
            load_runs([str(a), str(a / ".." / "a")])


class TestNames:
    def test_trainers(self, evaluation):
        assert names_of(set_model(evaluation("a"), "nnUNetTrainer"), evaluation("b")) == ["nnUNet", "MSTKD"]

    def test_plans_where_trainers_repeat(self, evaluation):
        folders = [
            set_model(evaluation(name), "nnUNetTrainer", plans=plans, configuration="3d_fullres")
            for name, plans in (("a", "nnUNetPlans"), ("b", "otherPlans"))
        ]
        assert names_of(*folders) == ["nnUNet nnUNetPlans", "nnUNet otherPlans"]

    def test_folders_where_models_repeat(self, evaluation):
        assert names_of(evaluation("a"), evaluation("b")) == ["a", "b"]

    def test_as_many_parents_as_it_takes(self, evaluation):
        assert names_of(evaluation("a/fold_0"), evaluation("b/fold_0")) == ["a/fold_0", "b/fold_0"]

    def test_joined_folders_are_named_after_what_holds_them(self, evaluation):
        folders = [evaluation(f"{run}/{seed}") for run in "ab" for seed in (0, 1)]
        assert names_of(f"{folders[0]},{folders[1]}", f"{folders[2]},{folders[3]}") == ["a", "b"]

    def test_predictions_without_a_trainer(self, evaluation):
        a = evaluation("a")
        change_record(a, model={"id": "1", "name": "their_predictions"})
        assert names_of(a) == ["their_predictions"]

    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            (["x"], "1 --names for 2 runs"),
            (["x", "x"], "2 runs are named 'x'"),
            (["x", " "], "cannot be printed"),
        ],
    )
    def test_names_that_do_not_fit(self, evaluation, names, problem):
        with pytest.raises(MSTKDError, match=problem):
            load_runs([str(evaluation("a")), str(evaluation("b"))], names)

    def test_reference_by_name_or_folder(self, evaluation):
        arguments = [str(evaluation("a")), str(evaluation("b"))]
        runs = load_runs(arguments, ["first", "second"])
        assert find_run("second", arguments, runs) == "second"
        assert find_run(arguments[1] + "/", arguments, runs) == "second"
        with pytest.raises(MSTKDError, match=r"'third' is none of the runs; they are named first, second"):
            find_run("third", arguments, runs)


class TestFoldsAndSeeds:
    def test_folds_are_concatenated(self, evaluation, compare):
        parts = [evaluation(f"f{n}", patients=2, first_patient=2 * n, seed=n) for n in (1, 0)]
        joined = compare(f"{parts[0]},{parts[1]}")
        apart = [compare(part) for part in parts]
        assert joined.scores["case"].unique().tolist() == [f"P-{n:03d}-000" for n in range(4)]
        for case in apart[0].scores["case"].unique():
            mine = joined.scores[joined.scores["case"] == case]["dice"].to_numpy()
            theirs = apart[0].scores[apart[0].scores["case"] == case]["dice"].to_numpy()
            assert mine.tolist() == theirs.tolist()
        where = {"subset": "Avg.", "region": "TC", "metric": "dice"}
        halves = [only(one.means, **where)["mean"] for one in apart]
        assert only(joined.means, **where)["mean"] == pytest.approx(np.mean(halves))
        assert only(joined.means, **where)["n"] == 4
        assert only(joined.means, **where)["seeds"] == 1
        assert np.isnan(only(joined.means, **where)["seed_std"])

    def test_seeds_are_averaged_per_case(self, evaluation, compare):
        folders = [evaluation(f"s{n}", seed=n, gain=0.02 * n) for n in range(3)]
        joined = compare(",".join(map(str, folders)))
        apart = [compare(folder) for folder in folders]
        mean = np.mean([one.scores["dice"].to_numpy() for one in apart], axis=0)
        assert joined.scores["dice"].to_numpy() == pytest.approx(mean)
        where = {"subset": "incomplete", "region": "WT", "metric": "hd95"}
        each = [only(one.means, **where)["mean"] for one in apart]
        row = only(joined.means, **where)
        assert (row["seeds"], row["n"]) == (3, 6)
        assert row["seed_std"] == pytest.approx(np.std(each, ddof=1))

    def test_seeds_of_folds_count_by_patients(self, evaluation, compare):
        """One fold has three cases of one patient, the other three patients."""
        folders = [
            evaluation(f"f{fold}s{seed}", patients=3, first_patient=3 * fold, seed=10 * fold + seed)
            for fold in (0, 1)
            for seed in (0, 1)
        ]
        for folder in folders[:2]:
            join_patients(folder, [f"P-{n:03d}-000" for n in range(3)], "P-000")
        joined = compare(",".join(map(str, folders)))
        where = {"subset": "Avg.", "region": "WT", "metric": "dice"}
        each = [only(compare(folder).means, **where)["mean"] for folder in folders]
        variances = [np.var(each[:2], ddof=1), np.var(each[2:], ddof=1)]
        expected = np.sqrt(variances[0] * 1 + variances[1] * 9) / 4
        assert only(joined.means, **where)["seed_std"] == pytest.approx(expected)

    def test_one_model_twice_is_no_second_seed(self, evaluation, compare):
        folders = [evaluation("a"), evaluation("b")]
        with pytest.raises(MSTKDError, match=r"a and .*b of run '.*' are of one model, evaluated twice"):
            compare(",".join(map(str, folders)))

    def test_a_list_longer_than_a_name_can_be(self, evaluation, compare, monkeypatch, tmp_path):
        folders = [evaluation(f"{'fold' * 20}{n}", patients=2, first_patient=2 * n, seed=n) for n in range(4)]
        monkeypatch.chdir(folders[0].parent)
        joined = compare(",".join(folder.name for folder in folders))
        assert joined.scores["case"].nunique() == 8

    def test_seeds_of_folds(self, evaluation, compare):
        folders = [
            evaluation(f"f{fold}s{seed}", patients=3, first_patient=3 * fold, seed=10 * fold + seed)
            for fold in (0, 1)
            for seed in (0, 1)
        ]
        joined = compare(",".join(map(str, folders)))
        where = {"subset": "Avg.", "region": "WT", "metric": "dice"}
        each = [only(compare(folder).means, **where)["mean"] for folder in folders]
        # The mean of two independent halves has a quarter of the summed variances.
        variances = [np.var(each[:2], ddof=1), np.var(each[2:], ddof=1)]
        row = only(joined.means, **where)
        assert (row["seeds"], row["n"]) == (2, 6)
        assert row["seed_std"] == pytest.approx(np.sqrt(sum(variances)) / 2)
