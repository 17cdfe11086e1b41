"""What an evaluation wrote is what is read."""

from __future__ import annotations

import json

import pytest

from nnunetv2_mstkd.datasets.regions import regions_of
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.regions import ignore_label
from nnunetv2_mstkd.evaluation.record.record import METRIC_COLUMNS, read_evaluation, write_record


def test_a_record_comes_back_as_it_was_written(evaluation, tmp_path):
    first = read_evaluation(evaluation("a", images=True)).record
    write_record(first, tmp_path)
    assert read_evaluation(tmp_path).record == first


def test_the_table_keeps_names_that_look_like_numbers(evaluation):
    folder = evaluation("a")
    text = (folder / "metrics.csv").read_text().replace("P-000-000,P-000,", "000,00,")
    (folder / "metrics.csv").write_text(text)
    table = read_evaluation(folder).metrics
    assert list(table.columns[: len(METRIC_COLUMNS)]) == list(METRIC_COLUMNS)
    assert {"000"} == set(table[table.patient == "00"].case)


def test_the_table_keeps_names_that_look_like_nothing(evaluation):
    folder = evaluation("a")
    path = folder / "metrics.csv"
    path.write_text(path.read_text().replace(",WT,", ",NA,").replace("P-000,", "None,"))
    table = read_evaluation(folder).metrics
    assert set(table["region"]) == {"NA", "TC", "ET"}
    assert "None" in set(table["patient"])
    assert table["dice"].dtype == float


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(MSTKDError, match=r"has no evaluation\.json; give the -o folder"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("content", [[], {"version": 1}, {"cases": {"a": {}}}])
def test_a_foreign_record_is_refused(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(MSTKDError, match="is not what nnUNetv2_mstkd evaluate writes"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        {"prediction_label_map": {"x": 1}},
        {"prediction_label_map": [1]},
        {"model": {}},
        {"model": []},
        {"model": None},
        {"regions": {"WT": 3}},
        {"cases": {"a": None}},
        {"cases": {"a": {"patient": "a", "reference": "a", "label_map": {"x": 1}}}},
        {"sessions": [{"begun": 1}]},
        {"subsets": None},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(evaluation, damage):
    path = evaluation("a") / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(
        MSTKDError, match=r"is not what .* evaluate writes \(.*\); evaluate into a new folder"
    ):
        read_evaluation(path.parent)


def test_an_unfinished_evaluation_is_refused(evaluation):
    folder = evaluation("a")
    (folder / "metrics.csv").unlink()
    with pytest.raises(MSTKDError, match="did not end"):
        _ = read_evaluation(folder).metrics


@pytest.mark.parametrize(
    ("labels", "regions", "ignore"),
    [
        ({"background": 0, "NCR": 1, "ED": 2}, {"NCR": (1,), "ED": (2,)}, None),
        ({"background": 0, "WT": [1, 2], "ET": 3, "ignore": 4}, {"WT": (1, 2), "ET": (3,)}, 4),
    ],
)
def test_regions_are_those_of_the_data_set(labels, regions, ignore):
    assert regions_of({"labels": labels}) == regions
    assert ignore_label({"labels": labels}) == ignore
