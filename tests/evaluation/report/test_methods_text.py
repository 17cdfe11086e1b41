"""``report.txt``: what it says is what was recorded, and what it needs is cited."""

import json

import pytest
from comparison_helpers import change_metrics, change_record, remove_modality

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.record.provenance import reference_of
from nnunetv2_mstkd.evaluation.report.described import facts
from nnunetv2_mstkd.evaluation.report.methods_text import (
    NNUNET,
    References,
    assembled,
    comparison_text,
    model_words,
)
from nnunetv2_mstkd.methods import METHODS


def compared(*runs, names=None):
    return compare_runs(load_runs(list(map(str, runs)), names), seed=7, resamples=100)


@pytest.fixture
def text(evaluation):
    folders = [evaluation(name, seed=i) for i, name in enumerate("ab")]
    return comparison_text(compared(*folders, names=["dropout", "other"]))


def test_what_compare_says(text):
    words = " ".join(text.split())
    assert "2 models were evaluated on" in words
    assert "(100 resamples, seed 7)" in words
    assert "Differences to dropout are paired within patients" in words
    assert "Wilcoxon signed-rank tests [3] with Holm's correction [4]" in words
    assert "trainer nnUNetTrainerMSTKD [2]" in words
    assert "[2] Zhu et al." in words
    assert " ".join(f"[1] {NNUNET}".split()) in words
    assert max(map(len, text.splitlines())) <= 100


class TestOfAllEvaluations:
    """No sentence takes the first evaluation for all of them."""

    @pytest.fixture
    def words(self):
        def of(*runs, names=None):
            return " ".join(comparison_text(compared(*runs, names=names)).split())

        return of

    def test_one_model(self, evaluation, words):
        text = words(evaluation("a", patients=1))
        assert text.startswith("1 model was evaluated on 1 case of 1 patient of Dataset900_Phantom with")

    def test_seeds_are_models_of_one_run(self, evaluation, words):
        a, b = evaluation("a"), evaluation("b", seed=1)
        assert words(f"{a},{b}").startswith("2 models in 1 run were evaluated")

    def test_every_version(self, evaluation, words):
        a, b = evaluation("a"), evaluation("b", seed=1)
        change_record(b, versions={"nnunetv2-mstkd": "0.0.9", "nnunetv2": "2.6.0", "torch": "2.9.0"})
        text = words(a, b)
        assert "with nnunetv2-mstkd 0.1.0 and 0.0.9, an extension of nnU-Net 2.8.1 and 2.6.0 [1]" in text
        assert "(PyTorch (version unknown) and 2.9.0)" in text

    def test_versions_of_every_session_that_scored(self, evaluation, words):
        a = evaluation("a")
        sessions = [
            {"started": str(n), "command": "c", "versions": {"nnunetv2": version}, "scored": scored}
            for n, (version, scored) in enumerate((("2.6.0", 9), ("2.7.0", 0), ("2.8.1", 9)))
        ]
        change_record(a, sessions=sessions)
        assert "an extension of nnU-Net 2.6.0 and 2.8.1 [1]" in words(a)

    def test_every_data_set(self, evaluation, words):
        a, b = evaluation("a"), evaluation("b", seed=1)
        change_record(b, dataset="Dataset001_Else")
        text = words(a, b)
        assert "of data that the evaluations name Dataset900_Phantom and Dataset001_Else with" in text
        assert facts(compared(a, b))["Data set"] == "Dataset900_Phantom, Dataset001_Else"

    def test_of_finished_segmentations_nobody_knows_what_stood_for_an_absent_sequence(
        self, evaluation, words
    ):
        a, b = evaluation("a"), evaluation("b", seed=1)
        assert "an absent one was zero in the network's input, after normalisation" in words(a)
        change_record(b, model={"id": "b", "name": "theirs", "folder": "/theirs"})
        both = words(a, b)
        assert both.startswith("1 model and 1 folder of finished segmentations were evaluated on 6 cases")
        assert "an absent one was zero in the input of models, after normalisation" in both
        assert "theirs: finished segmentations in theirs." in both
        alone = words(b)
        assert alone.startswith("1 folder of finished segmentations was evaluated on 6 cases")
        assert "zero in" not in alone

    def test_cases_with_subsets_of_their_own(self, evaluation, words):
        a = evaluation("a")
        assert "Every case was segmented from 15 subsets of its sequences (t1n, t1c, t2w, t2f);" in words(a)
        remove_modality(a, "P-000-000", "t2f")
        assert (
            "Each case was segmented from 7 to 15 subsets of the sequences (t1n, t1c, t2w, t2f), 15 different"
            " ones in all;" in words(a)
        )
        assert facts(compared(a))["Subsets"] == "15, of each case 7 to 15"

    def test_cases_with_one_subset_each(self, evaluation, words):
        a = evaluation("a", patients=3)
        own = {"P-000-000": "t1c", "P-001-000": "t2f", "P-002-000": "t1c+t2f"}
        record = json.loads((a / "evaluation.json").read_text())
        for case, subset in own.items():
            record["cases"][case]["subsets"] = [subset]
        change_record(a, cases=record["cases"], subsets=list(own.values()))
        change_metrics(a, lambda table: table[table["subset"] == table["case"].map(own)])
        text = words(a)
        assert "Each case was segmented from 1 subset of the sequences" in text
        assert "3 different ones in all" in text


def test_a_method_is_cited_and_numbered_once():
    references = References()
    model = {"trainer": "T", "plans": "P", "configuration": "C", "folds": [0, 2]}
    model |= {"inference": {"mirroring": True, "step_size": 0.5}}
    model |= {"in_force": {"sampler": "uniform", "full_phase": 0.5}}
    words = model_words(model, "A paper", references)
    assert words == (
        "trainer T [1], plans P, configuration C, mean of the 2 folds 0, 2, trained on random subsets of the"
        " sequences (sampler uniform, after 50 % of the epochs with all sequences), with mirroring, windows"
        " every 0.5 patches"
    )
    assert "[1]" in model_words(model, "A paper", references)
    assert assembled(["Text."], references) == "Text.\n\nReferences\n[1] A paper\n"
    assert assembled(["Text."], References()) == "Text.\n"


@pytest.mark.slow
def test_every_method_of_the_literature_has_a_reference():
    found = {method.trainer: reference_of(method.trainer) for method in METHODS}
    without = {trainer for trainer, reference in found.items() if not reference}
    assert without == {"nnUNetTrainerFullModality", "nnUNetTrainerModalityDropout"}
    assert "mmFormer" in found["nnUNetTrainerMMFormer"]
    assert reference_of("nnUNetTrainer") == reference_of("nobody's") == reference_of(None) == ""


def test_a_trainer_that_is_not_installed_says_nothing(capsys):
    assert reference_of("nnUNetTrainerOfSomebodyElse") == ""
    assert capsys.readouterr() == ("", "")
