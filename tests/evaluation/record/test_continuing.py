"""Several calls make one evaluation: none undoes another's work or takes the credit for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from threading import Event, Thread

import pandas as pd
import pytest
from evaluated_model import CASES, model_flags, refuse_to_load

from nnunetv2_mstkd.evaluation.metrics.scores import RegionScore
from nnunetv2_mstkd.evaluation.record import continuing
from nnunetv2_mstkd.evaluation.record import tables_of_scores as collecting
from nnunetv2_mstkd.evaluation.record.continuing import note_session
from nnunetv2_mstkd.evaluation.record.record import (
    EvaluatedCase,
    EvaluationRecord,
    Session,
    read_evaluation,
)
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore, SubsetScores
from nnunetv2_mstkd.evaluation.record.tables_of_scores import collect

LONG = 20.0  # seconds; nothing here waits so long unless it hangs


def record(**values) -> EvaluationRecord:
    known = {
        "model": {"id": "ab" * 32, "name": "a_model"},
        "dataset": "Dataset990_Tiny",
        "modalities": ("t1c", "t2f"),
        "regions": {"WT": (1,), "TC": (2,)},
        "region_keys": {"WT": "1", "TC": "(2,)"},
        "subsets": ("t1c", "t2f"),
        "cases": {name: EvaluatedCase(name, f"{name}-seg.nii.gz") for name in CASES},
        "policy": "brats",
    }
    return EvaluationRecord(**(known | values))


def score(folder: Path, case: str, *, lacking: str = "") -> None:
    """Store the scores of a case; it and the prediction are empty of one region."""
    full, empty = RegionScore(3, 1, 1, 2.0, 1.0), RegionScore(0, 0, 0, None, 1.0)
    regions = {name: empty if name == lacking else full for name in ("WT", "TC")}
    for subset in ("t1c", "t2f"):
        ScoreStore(folder).add(case, subset, SubsetScores(100, regions))


def test_a_table_is_never_older_than_what_was_scored(tmp_path, monkeypatch):
    """One run has read the scores when another adds the last of them and writes its tables."""
    have_read, go_on = Event(), Event()
    original = collecting.metrics_table

    def slow(*arguments):
        if not have_read.is_set():
            have_read.set()
            go_on.wait(LONG)
        return original(*arguments)

    monkeypatch.setattr(collecting, "metrics_table", slow)
    score(tmp_path, CASES[0])
    first = Thread(target=collect, args=(record(), tmp_path))
    first.start()
    assert have_read.wait(LONG)
    score(tmp_path, CASES[1])
    second = Thread(target=collect, args=(record(), tmp_path))
    second.start()
    second.join(0.5)  # it is done by now, unless it waits for the first
    go_on.set()
    for thread in (first, second):
        thread.join(LONG)
        assert not thread.is_alive()
    assert set(pd.read_csv(tmp_path / "metrics.csv")["case"]) == set(CASES)
    assert "2 case(s)" in (tmp_path / "table.md").read_text()


def test_models_of_one_name_are_told_apart(tmp_path):
    names = set()
    for digest in ("a" * 64, "b" * 64):
        folder = tmp_path / digest
        score(folder, CASES[0])
        evaluation = collect(record(model={"id": digest, "name": "a_model"}), folder).evaluation
        names |= set(evaluation.metrics["model"])
    assert names == {"a_model@aaaaaaaaaaaa", "a_model@bbbbbbbbbbbb"}


def test_nnunets_means_of_a_label_that_nobody_has(tmp_path):
    """nnU-Net leaves undefined cases out of a label's mean, and an undefined label in the mean of all."""
    score(tmp_path, CASES[0], lacking="TC")
    score(tmp_path, CASES[1], lacking="TC")
    collect(record(), tmp_path)
    summary = json.loads((tmp_path / "predictions" / "t1c" / "summary.json").read_text())
    assert list(summary["mean"]) == ["1", "(2,)"]
    assert summary["mean"]["1"]["Dice"] == pytest.approx(0.75)
    assert summary["mean"]["(2,)"]["Dice"] != summary["mean"]["(2,)"]["Dice"]
    assert summary["foreground_mean"]["Dice"] != summary["foreground_mean"]["Dice"]
    assert summary["foreground_mean"]["TP"] == pytest.approx(1.5)


def test_old_scores_are_not_credited_to_new_code(whole, models, folder, tmp_path, evaluate, monkeypatch):
    shutil.copytree(whole, tmp_path / "out")
    before = read_evaluation(whole).record
    monkeypatch.setattr(continuing, "git_commit", lambda: "pulled")
    monkeypatch.setattr(continuing, "versions", lambda: {"nnunetv2": "3"})
    refuse_to_load(monkeypatch)
    flags = (*model_flags(models.regions, folder), "--policy", "official")
    assert evaluate(tmp_path / "out", *flags).code == 0
    after = read_evaluation(tmp_path / "out").record
    assert (after.git, after.versions, after.sessions) == (before.git, before.versions, before.sessions)
    assert [session.scored for session in after.sessions] == [33]
    assert after.command.endswith("--policy official"), "what does the same again"

    path = tmp_path / "out" / "cases" / f"{CASES[0]}.json"
    content = json.loads(path.read_text())
    del content["subsets"]["t1c"]
    path.write_text(json.dumps(content))
    assert evaluate(tmp_path / "out", *flags).code == 0
    after = read_evaluation(tmp_path / "out").record
    assert [(session.git, session.scored) for session in after.sessions] == [(before.git, 33), ("pulled", 1)]
    assert (after.git, after.versions) == ("pulled", {"nnunetv2": "3"})


def test_a_session_that_was_stopped_is_known(tmp_path):
    stopped, last = Session("1", "evaluate", {}, "a"), Session("2", "evaluate", {}, "b")
    note_session(record(), stopped, tmp_path)
    note_session(record(), last, tmp_path)
    score(tmp_path, CASES[0])
    ended = Session("2", "evaluate", {}, "b", scored=2)
    note_session(record(), ended, tmp_path)
    evaluation = collect(record(), tmp_path).evaluation
    assert evaluation.record.sessions == (stopped, ended)
    assert read_evaluation(tmp_path).record == evaluation.record
