"""``nnUNetv2_mstkd trust``: what it writes, and what it refuses."""

import json
import shutil

import pandas as pd
import pytest
from evaluated_model import CASES, INCOMPLETE, refused
from made_evaluations import make_evaluation

from nnunetv2_mstkd.evaluation.record.provenance import file_digest
from nnunetv2_mstkd.evaluation.record.record import read_evaluation
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.trust.storage import read_trust


def changed_record(folder, target, **changes):
    """A copy of an evaluation whose record says something else."""
    shutil.copytree(folder, target)
    path = target / "evaluation.json"
    content = json.loads(path.read_text())
    content["model"] |= changes
    path.write_text(json.dumps(content))
    return target


class TestWritten:
    @pytest.fixture
    def written(self, trust, own_model, whole):
        done = trust("-m", own_model, "--evaluation", whole, "--held_out")
        assert done.code == 0, done.err
        return own_model, json.loads((own_model / "trust.json").read_text()), done

    def test_says_which_kind_and_how_that_is_known(self, written):
        _, content, done = written
        assert content["kind"] == "held-out cases"
        assert content["known_by"] == "the user's word (--held_out)"
        assert content["folds"] == [[0]]
        assert (content["cases"], content["patients"]) == (3, 3)
        assert "held-out cases" in done.out

    def test_every_subset_and_region_has_a_distribution(self, written, whole):
        table = written[1]["table"]
        metrics = read_evaluation(whole).metrics
        assert set(table) == set(metrics["subset"])
        rows = metrics[(metrics["subset"] == "t1c+t2f") & (metrics["region"] == "TC")]
        entry = table["t1c+t2f"]["TC"]
        assert (entry["cases"], entry["dice"]["cases"]) == (3, 3)
        assert entry["dice"]["mean"] == pytest.approx(rows["dice"].mean(), rel=1e-3)
        error = (rows["volume_prediction"] - rows["volume_reference"]).median() / 1000
        assert entry["volume_error"]["50%"] == pytest.approx(error, rel=1e-3)
        assert table["t1n"]["TC"]["cases"] == 2, "one case lacks t1n"

    def test_no_name_of_a_case_or_a_folder_is_in_it(self, written, whole):
        model = written[0]
        for path in (model / "trust.json", model / "fold_0" / "debug.json"):
            text = path.read_text()
            assert not any(name in text for name in (*CASES, INCOMPLETE, str(whole), str(model)))

    def test_gains_are_differences_of_the_same_cases(self, written, whole):
        metrics = read_evaluation(whole).metrics
        dice = metrics[metrics["region"] == "WT"].pivot(index="case", columns="subset", values="dice")
        gain = written[1]["gains"]["t1c"]["t1n"]["WT"]
        difference = (dice["t1n+t1c"] - dice["t1c"]).dropna()
        assert gain["patients"] == len(difference) == 2
        assert gain["mean"] == pytest.approx(difference.mean(), abs=1e-4)

    def test_it_is_read_as_it_was_written(self, written, whole):
        known = read_trust(open_model_folder(written[0]))
        metrics = read_evaluation(whole).metrics
        rows = metrics[metrics["region"] == "ET"]
        assert known.facts.regions["ET"].dice == pytest.approx(rows["dice"].to_numpy(), rel=1e-4)

    def test_three_cases_are_too_few_and_it_says_so(self, written):
        assert "(0.00 to 1.00)" in written[2].out
        assert "fewer than 19 patients" in written[2].out

    def test_a_copy_travels_in_the_file_that_the_exporter_takes(self, written):
        model = written[0]
        (model / "trust.json").unlink()
        assert read_trust(open_model_folder(model)).cases == 3


def test_scores_that_are_missing_are_told(trust, own_model, whole, tmp_path, caplog):
    part = shutil.copytree(whole, tmp_path / "part")
    (part / "cases" / f"{CASES[0]}.json").unlink()
    table = pd.read_csv(part / "metrics.csv", dtype={"case": str, "patient": str})
    table[table["case"] != CASES[0]].to_csv(part / "metrics.csv", index=False)
    assert trust("-m", own_model, "--evaluation", part, "--held_out").code == 0
    (message,) = caplog.messages
    assert message.startswith(f"{part} lacks 4 scores (first: {CASES[0]} under ")


class TestCrossValidation:
    def test_validation_cases_of_each_fold(self, trust, own_model, whole, splits):
        splits([{"train": ["other"], "val": [*CASES, INCOMPLETE]}])
        done = trust("-m", own_model, "--evaluation", whole)
        assert done.code == 0, done.err
        content = json.loads((own_model / "trust.json").read_text())
        assert (content["kind"], content["known_by"]) == ("cross-validation", "splits_final.json")

    def test_cases_that_a_fold_has_not_seen_are_held_out(self, trust, own_model, whole, splits):
        splits([{"train": ["other"], "val": ["another"]}])
        assert trust("-m", own_model, "--evaluation", whole).code == 0
        assert json.loads((own_model / "trust.json").read_text())["kind"] == "held-out cases"

    def test_other_cases_of_a_patient_that_was_trained_on_are_told(
        self, trust, own_model, whole, splits, caplog
    ):
        splits([{"train": ["BraTS-GLI-00001-001"], "val": list(CASES)}])
        assert trust("-m", own_model, "--evaluation", whole).code == 0
        (message,) = caplog.messages
        assert message.startswith("1 case(s) of")
        assert CASES[0] in message


class TestRefused:
    def nothing_written(self, model):
        assert not (model / "trust.json").exists()
        assert not list(model.glob("fold_*/debug.json"))

    def test_cases_that_the_fold_was_trained_on(self, trust, own_model, whole, splits):
        splits([{"train": [CASES[1], "other"], "val": [CASES[0]]}])
        refused(trust("-m", own_model, "--evaluation", whole), says="1 of 3 cases of")
        self.nothing_written(own_model)

    def test_the_users_word_does_not_outweigh_the_split(self, trust, own_model, whole, splits):
        splits([{"train": list(CASES), "val": []}])
        refused(
            trust("-m", own_model, "--evaluation", whole, "--held_out"), says="were trained on by fold(s) 0"
        )

    @pytest.mark.parametrize(("what", "is_there"), [("teacher", True), ("init", True), ("init", False)])
    def test_another_fold_of_a_model_that_it_learnt_from(
        self, trust, own_model, whole, splits, tmp_path, models, what, is_there
    ):
        splits([{"train": ["other"], "val": list(CASES)}])
        source = models.regions if is_there else tmp_path / "gone"
        other = changed_record(whole, tmp_path / "o", settings={what: str(source), f"{what}_fold": 1})
        refused(
            trust("-m", own_model, "--evaluation", other), says=f"the model learnt from fold_1 of {source}"
        )
        self.nothing_written(own_model)
        assert trust("-m", own_model, "--evaluation", other, "--held_out").code == 0
        assert json.loads((own_model / "trust.json").read_text())["known_by"].startswith("the user's word")

    def test_the_only_fold_of_starting_weights(self, trust, own_model, whole, splits, tmp_path, models):
        splits([{"train": ["other"], "val": list(CASES)}])
        source = shutil.copytree(models.regions, tmp_path / "start" / models.regions.name)
        shutil.rmtree(source / "fold_0")
        other = changed_record(whole, tmp_path / "o", settings={"init": str(source)})
        refused(
            trust("-m", own_model, "--evaluation", other), says=f"the model learnt from fold_1 of {source}"
        )

    def test_the_same_fold_of_a_teacher_is_fine(self, trust, own_model, whole, splits, tmp_path, models):
        splits([{"train": ["other"], "val": list(CASES)}])
        other = changed_record(whole, tmp_path / "o", settings={"teacher": str(models.regions)})
        assert trust("-m", own_model, "--evaluation", other).code == 0

    def test_cases_that_were_distilled_without_a_segmentation(self, trust, own_model, whole, splits):
        splits([{"train": ["other"], "val": list(CASES)}])
        described = json.loads((own_model / "dataset.json").read_text())
        described["mstkd"] = {**described.get("mstkd", {}), "unlabelled": [CASES[1]]}
        (own_model / "dataset.json").write_text(json.dumps(described))
        refused(trust("-m", own_model, "--evaluation", whole), says="1 of 3 cases of")

    def test_no_telling(self, trust, own_model, whole):
        refused(trust("-m", own_model, "--evaluation", whole), says="say so with --held_out")
        self.nothing_written(own_model)

    def test_other_weights(self, trust, own_model, whole):
        shutil.copy(own_model / "fold_1" / "checkpoint_final.pth", own_model / "fold_0")
        refused(trust("-m", own_model, "--evaluation", whole, "--held_out"), says="is of other weights than")
        self.nothing_written(own_model)

    def test_segmentations_of_an_unknown_model(self, trust, own_model, tmp_path):
        other = make_evaluation(tmp_path / "given")
        refused(trust("-m", own_model, "--evaluation", other, "--held_out"), says="which model made them")

    def test_one_case_twice(self, trust, own_model, whole, tmp_path):
        copy = shutil.copytree(whole, tmp_path / "copy")
        done = trust("-m", own_model, "--evaluation", whole, copy, "--held_out")
        refused(done, says="every case counts once")

    def test_one_folder_twice(self, trust, own_model, whole):
        refused(trust("-m", own_model, "--evaluation", whole, whole), says="is given twice")

    def test_another_step_size(self, trust, own_model, whole, tmp_path):
        other = changed_record(whole, tmp_path / "other", inference={"step_size": 0.5, "mirroring": True})
        refused(
            trust("-m", own_model, "--evaluation", whole, other, "--held_out"), says="different inference"
        )

    def test_no_evaluation_and_no_model(self, trust, own_model, tmp_path, whole):
        refused(trust("-m", own_model, "--evaluation", tmp_path), says="has no evaluation.json")
        refused(trust("--evaluation", whole), says="name the model by -d DATASET")
        refused(trust("-m", own_model, "--evaluation", whole, "-o", "x.json"), says="-o belongs to --check")

    def test_a_check_without_anything_to_check(self, trust, own_model, whole):
        refused(trust("--check", "-m", own_model, "--evaluation", whole), says="has no trust.json")


def test_a_check_of_what_it_was_made_from_is_refused(trust, own_model, whole):
    assert trust("-m", own_model, "--evaluation", whole, "--held_out").code == 0
    flags = ("--check", "-m", own_model, "--evaluation", whole, "--held_out")
    refused(trust(*flags), says="was made from; give other cases")


class TestWhatCannotCheckAModel:
    @pytest.fixture
    def known(self, trust, own_model, whole):
        assert trust("-m", own_model, "--evaluation", whole, "--held_out").code == 0
        return own_model

    def test_an_evaluation_of_other_weights(self, trust, known, whole, tmp_path):
        other = changed_record(whole, tmp_path / "other", id="another")
        flags = ("--check", "-m", known, "--evaluation", other, "--held_out")
        refused(trust(*flags), says="is of other weights than")

    def test_a_model_that_was_trained_again(self, trust, known, whole, tmp_path):
        shutil.copy(known / "fold_1" / "checkpoint_final.pth", known / "fold_0")
        digest = file_digest([known / "fold_0" / "checkpoint_final.pth"])
        other = changed_record(whole, tmp_path / "other", id=digest)
        flags = ("--check", "-m", known, "--evaluation", other, "--held_out")
        refused(trust(*flags), says="cannot check it: trust.json was measured with other weights of fold 0")

    def test_cases_that_the_fold_was_trained_on(self, trust, known, whole, splits):
        splits([{"train": [CASES[1], "other"], "val": [CASES[0]]}])
        refused(trust("--check", "-m", known, "--evaluation", whole), says="were trained on by fold(s) 0")


@pytest.mark.slow
def test_check_prints_coverage_and_rivals_and_writes_them(trust, tmp_path):
    folder = make_evaluation(tmp_path / "made", patients=12)
    path = folder / "metrics.csv"
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    # Counts are what Dice is made of; the made-up table has the same for all.
    tp = (1000 * table["dice"]).round().astype(int)
    table.assign(tp=tp, fp=1000 - tp, fn=1000 - tp).to_csv(path, index=False)
    done = trust("--check", "--evaluation", folder, "-o", tmp_path / "check.json")
    assert done.code == 0
    assert "by cross-validation over the patients" in done.out
    content = json.loads((tmp_path / "check.json").read_text())
    assert set(content) == {"WT", "TC", "ET"}
    assert content["ET"]["patients"] == 12
    assert content["ET"]["bad"] > 0
    assert len(content["ET"]["coverage"]) == 3
