"""``report.txt``: what it says is what was recorded, and what it needs is cited."""

import pytest

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.record.provenance import reference_of
from nnunetv2_mstkd.evaluation.report.methods_text import (
    NNUNET,
    References,
    assembled,
    comparison_text,
    model_words,
)
from nnunetv2_mstkd.methods import METHODS


@pytest.fixture
def text(evaluation):
    folders = [str(evaluation(name, seed=i)) for i, name in enumerate("ab")]
    runs = load_runs(folders, ["dropout", "other"])
    return comparison_text(compare_runs(runs, seed=7, resamples=100))


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
