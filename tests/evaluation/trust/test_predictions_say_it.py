"""``predict`` and ``Segmenter`` say what ``trust.json`` knows, and nothing where it knows nothing."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated_model import CASES, INCOMPLETE
from made_facts import make_facts
from tiny_model import brats, files, predict  # noqa: F401  fixtures

from nnunetv2_mstkd import Segmenter
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.trust import Expectations, expected
from nnunetv2_mstkd.trust.calibration import HELD_OUT, Calibration, Gain
from nnunetv2_mstkd.trust.storage import checkpoint_digests, write_trust

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def give(model_path, *, folds=((0, 1),), patients=25, signals=(), changes=None):
    """Put made-up facts into a model: of t1c, t2f and both, for WT alone."""
    model = open_model_folder(model_path)
    facts = make_facts(patients, agreement=0.05)
    facts.regions["WT"].predicted[:] *= 2  # the random model's segmentations are large
    known = {
        "kind": HELD_OUT,
        "known_by": "a test",
        "folds": folds,
        "checkpoint": "checkpoint_final.pth",
        "digests": checkpoint_digests(model, {f for group in folds for f in group}, "checkpoint_final.pth"),
        "inference": {"step_size": 0.5, "mirroring": False},
        "modalities": model.modalities,
        "regions": {"WT": REGIONS["WT"]},
        "unit": "ml",
        "signals": {"WT": tuple(signals)},
        "gains": {
            "t1c+t2f": {"t1n": {"WT": Gain(0.05, 0.01, 0.09, 25)}, "t2w": {"WT": Gain(0.2, -0.1, 0.5, 25)}}
        },
        "facts": facts,
    }
    calibration = Calibration(**(known | (changes or {})))
    write_trust(model, calibration, {})
    return calibration


@pytest.fixture(scope="module")
def run(models, brats, tmp_path_factory):  # noqa: F811
    """A model that knows something of t1c+t2f, and what ``predict`` made of two cases with it."""
    from nnunetv2_mstkd.cli import main

    root = tmp_path_factory.mktemp("trusted")
    model = shutil.copytree(models.regions, root / models.regions.name)
    calibration = give(model)
    flags = ["-i", brats, "-o", root / "out", "-m", model, "-device", "cpu", "--disable_tta"]
    assert main(["predict", *map(str, flags)]) == 0
    records = json.loads((root / "out" / "modalities.json").read_text())
    return SimpleNamespace(root=root, model=model, calibration=calibration, records=records)


class TestRecord:
    def test_a_case_with_known_sequences_has_an_expectation(self, run):
        found = run.records[PARTIAL]["expected"]["WT"]
        facts = run.calibration.facts
        dice = facts.regions["WT"].dice[facts.subsets == "t1c+t2f"]
        assert found["dice"] == pytest.approx(np.median(dice), abs=1e-3)
        assert found["dice_low"] == pytest.approx(dice.min(), abs=1e-3), "the least of 25"
        assert (found["cases"], found["patients"], found["unit"]) == (25, 25, "ml")
        assert 0 < found["volume_error"] <= found["volume_error_high"]

    def test_volume_is_that_of_the_segmentation(self, run, files):  # noqa: F811
        array = files.read_array(run.root / "out" / f"{PARTIAL}.nii.gz")
        volume = np.count_nonzero(array) * np.prod(files.geometry["spacing"]) / 1000
        assert run.records[PARTIAL]["expected"]["WT"]["volume"] == pytest.approx(volume, rel=1e-3)

    def test_the_sequence_that_helps_is_one_that_was_shown_to(self, run):
        helps = run.records[PARTIAL]["expected"]["WT"]["helps"]
        assert (helps["sequence"], helps["dice"]) == ("t1n", 0.05)

    def test_folds_agreement_is_there_for_both_cases(self, run):
        for case in (WHOLE, PARTIAL):
            assert set(run.records[case]["fold_agreement"]) == set(REGIONS)
        assert run.records[PARTIAL]["expected"]["WT"]["agreement"] == pytest.approx(
            run.records[PARTIAL]["fold_agreement"]["WT"], abs=1e-3
        )

    def test_of_sequences_that_were_not_measured_nothing_is_said(self, run):
        assert "expected" not in run.records[WHOLE]


class TestPrinted:
    def test_cases_and_one_summary(self, run, brats, predict, tmp_path):  # noqa: F811
        done = predict(brats, tmp_path / "out", model=run.model)
        lines = done.out.splitlines()
        (partial,) = (line for line in lines if PARTIAL in line and line.startswith("["))
        assert "; Dice WT " in partial
        (whole,) = (line for line in lines if WHOLE in line and line.startswith("["))
        assert "no case was measured with these sequences" in whole
        assert sum(line.startswith("expected quality: measured on 25 patients") for line in lines) == 1
        assert any(line.startswith("a reader should look at ") for line in lines)

    def test_without_trust_json_it_says_once_how_to_make_it(self, models, brats, predict, tmp_path):  # noqa: F811
        done = predict(brats, tmp_path / "out", model=models.regions)
        (line,) = (line for line in done.out.splitlines() if "quality not known" in line)
        assert "nnUNetv2_mstkd trust -m" in line
        assert "expected" not in json.loads((tmp_path / "out" / "modalities.json").read_text())[PARTIAL]


class TestNothingIsSaid:
    """Where what was measured is of something else."""

    def says(self, model, folds=(0, 1), checkpoint="checkpoint_final.pth"):
        found = Expectations.of(open_model_folder(model), folds, checkpoint)
        assert found.expected(("t1c",), {"WT": 9000.0}, {"WT": 0.9}) == {}
        return found.says

    def test_of_fewer_folds_than_were_measured_together(self, run):
        assert "about folds 0 1, this prediction takes 0" in self.says(run.model, (0,))

    def test_of_another_checkpoint(self, run):
        assert "this prediction takes checkpoint_best.pth" in self.says(
            run.model, (0, 1), "checkpoint_best.pth"
        )

    def test_of_a_model_that_was_trained_again(self, run, tmp_path):
        model = shutil.copytree(run.model, tmp_path / run.model.name)
        shutil.copy(model / "fold_1" / "checkpoint_final.pth", model / "fold_0")
        assert "was measured with other weights of fold 0" in self.says(model)

    def test_of_a_file_that_is_none_of_ours(self, run, tmp_path):
        model = shutil.copytree(run.model, tmp_path / run.model.name)
        (model / "trust.json").write_text('{"version": 1}')
        assert "is not what nnUNetv2_mstkd trust writes" in self.says(model)

    def test_of_a_damaged_file(self, run, tmp_path):
        model = shutil.copytree(run.model, tmp_path / "two words" / run.model.name)
        (model / "trust.json").write_text('{"version": 1, ')
        says = self.says(model)
        assert f"cannot read {model / 'trust.json'} as JSON" in says
        assert f"; make it again: nnUNetv2_mstkd trust -m '{model}' --evaluation" in says

    def test_of_a_later_version(self, run, tmp_path):
        model = shutil.copytree(run.model, tmp_path / run.model.name)
        content = json.loads((model / "trust.json").read_text())
        (model / "trust.json").write_text(json.dumps(content | {"version": 2}))
        assert "version 2, this package reads version 1" in self.says(model)


class TestSinglesForTogether:
    def test_folds_measured_one_by_one_speak_for_each_and_roughly_for_all(self, models, tmp_path):
        path = shutil.copytree(models.regions, tmp_path / models.regions.name)
        give(path, folds=((0,), (1,)))
        model = open_model_folder(path)
        assert "single folds were measured" in Expectations.of(model, (0, 1)).says
        assert "single folds" not in Expectations.of(model, (1,)).says
        assert expected(model, ("t1c",), {"WT": 9000.0}, folds=(1,))["WT"].patients == 25

    def test_too_few_patients_for_intervals_are_told(self, models, tmp_path):
        path = shutil.copytree(models.regions, tmp_path / models.regions.name)
        give(path, patients=8)
        says = Expectations.of(open_model_folder(path), (0, 1)).says
        assert says.endswith(
            "measured on 8 patients (held-out cases); too few for intervals, which therefore are 0 to 1"
        )

    def test_other_settings_are_told(self, models, tmp_path):
        path = shutil.copytree(models.regions, tmp_path / models.regions.name)
        give(path)
        inference = {"step_size": 0.5, "mirroring": True}
        says = Expectations.of(open_model_folder(path), (0, 1), inference=inference).says
        assert says.endswith(
            "; measured without mirroring (--disable_tta), this prediction is made with mirroring"
        )


class TestLook:
    def test_a_volume_beyond_all_measured_ones_is_looked_at(self, run):
        known = Expectations.of(open_model_folder(run.model), (0, 1))
        found = known.expected(("t1c", "t2f"), {"WT": 1e9}, {"WT": 0.9})["WT"]
        assert found.look
        assert found.why.startswith("its volume, 1e+06 ml, is above all that was measured (")

    def test_the_rule_states_its_miss_rate(self, run):
        known = Expectations.of(open_model_folder(run.model), (0, 1))
        volume = 1000 * float(np.median(run.calibration.facts.regions["WT"].predicted))
        poor, good = (known.expected(names, {"WT": volume})["WT"] for names in (("t1c",), ("t1c", "t2f")))
        assert (poor.look, good.look) == (True, False)
        assert "misses at most" in good.why
        assert poor.bad > 0


@pytest.mark.slow
def test_segmenter_says_the_same_as_predict(run, brats):  # noqa: F811
    segmenter = Segmenter(run.model, device="cpu", mirroring=False)
    assert segmenter.quality.startswith("expected quality: measured on 25 patients")
    folder = brats / PARTIAL
    result = segmenter(**{m: folder / f"{PARTIAL}-{m}.nii.gz" for m in ("t1c", "t2f")})
    assert result.expected["WT"].to_json() == run.records[PARTIAL]["expected"]["WT"]
    assert {region: round(dice, 4) for region, dice in result.agreement.items()} == run.records[PARTIAL][
        "fold_agreement"
    ]


@pytest.mark.slow
def test_an_evaluation_records_how_far_folds_agree_and_trust_reads_it(own_model, folder, trust, tmp_path):
    from nnunetv2_mstkd.cli import main

    flags = ("-device", "cpu", "--disable_tta", "--disable_progress_bar", "-step_size", 1, "-f", 0, 1)
    words = ["-m", own_model, "--cases", folder, "--subsets", "t1c+t2f", "-o", tmp_path / "out", *flags]
    assert main(["evaluate", *map(str, words)]) == 0
    assert trust("-m", own_model, "--evaluation", tmp_path / "out", "--held_out").code == 0
    records = json.loads((tmp_path / "out" / "predictions" / "t1c+t2f" / "modalities.json").read_text())
    facts = json.loads((own_model / "trust.json").read_text())["facts"]
    told = [records[case]["fold_agreement"]["TC"] for case in (*CASES, INCOMPLETE)]
    assert facts["regions"]["TC"]["agreement"] == pytest.approx(told, abs=1e-4)
    assert "expected" not in records[CASES[0]], "an evaluation of a model says nothing by itself"
