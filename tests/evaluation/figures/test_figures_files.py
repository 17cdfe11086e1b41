"""Every figure is written, is not empty, and says of how many patients it is."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from comparison_helpers import change_metrics, only_subsets
from made_evaluations import scored_as_on_disk
from matplotlib.image import imread

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.figures import save_figures
from nnunetv2_mstkd.evaluation.figures.choice import background_of, shown_cases, shown_subsets
from nnunetv2_mstkd.evaluation.figures.data import chosen_runs
from nnunetv2_mstkd.evaluation.figures.qualitative import draw_qualitative
from nnunetv2_mstkd.evaluation.figures.volumes import UnreadableError, read_prediction, read_reference
from nnunetv2_mstkd.evaluation.record.record import read_evaluation

WIDTH = round(180 / 25.4 * 200)
KEYS = ["heat_map", "by_count", "strips", "importance"]


def compared(*folders, **options):
    return compare_runs(load_runs([str(folder) for folder in folders]), resamples=100, **options)


def check_files(figures, patients):
    for figure in figures:
        image = imread(figure.png)
        assert image.shape[1] == pytest.approx(WIDTH, abs=1)
        assert image[..., :3].var() > 1e-3
        assert figure.svg.read_text().rstrip().endswith("</svg>")
        assert figure.png.stem == figure.svg.stem == figure.key
        assert re.search(rf"\bn = {patients} (patients|cases)", figure.caption), figure.caption
        assert "brats" in figure.caption
        assert figure.title


def test_every_figure_of_two_runs(evaluation, tmp_path):
    folders = [evaluation(n, seed=i, patients=3, images=True, gain=-i / 50) for i, n in enumerate("ab")]
    comparison = compared(*map(scored_as_on_disk, folders))
    figures = save_figures(comparison, tmp_path / "new" / "figures")
    assert [figure.key for figure in figures] == [*KEYS, "qualitative"]
    check_files(figures, patients=3)
    by_key = {figure.key: figure for figure in figures}
    assert "95 % bootstrap intervals over patients (100 resamples, seed 0)" in by_key["by_count"].caption
    assert "median" in by_key["qualitative"].caption
    written = {path.name for path in (tmp_path / "new" / "figures").iterdir()}
    assert written == {f"{key}.{ending}" for key in by_key for ending in ("png", "svg")}


def test_names_are_text_and_no_formulas(evaluation, tmp_path):
    """A dollar sign begins a formula in matplotlib, and a broken one ends the drawing."""
    comparison = compare_runs(
        load_runs([str(evaluation("a", patients=2))], [r"$\frac$ cost $5"]), resamples=10
    )
    figures = save_figures(comparison, tmp_path / "figures")
    assert [figure.key for figure in figures] == KEYS
    assert r"$\frac$" in "".join(re.findall(r"<!-- (.*?) -->", figures[0].svg.read_text()))


def test_two_modalities_a_lacking_image_and_no_predictions(evaluation, tmp_path):
    folder = evaluation("a", modalities=("CT", "PET"), patients=2)
    record = json.loads((folder / "evaluation.json").read_text())
    record["cases"]["P-001-000"]["images"] = {"CT": "gone.nii.gz"}
    (folder / "evaluation.json").write_text(json.dumps(record))
    table = pd.read_csv(folder / "metrics.csv")
    lacks = table["subset"].str.contains("PET") & (table["case"] == "P-001-000")
    table[~lacks].to_csv(folder / "metrics.csv", index=False)
    figures = save_figures(compared(folder), tmp_path / "figures")
    assert [figure.key for figure in figures] == KEYS
    check_files(figures, patients=2)


def test_seven_modalities_are_shown_by_their_number(evaluation, tmp_path):
    comparison = compared(evaluation("a", modalities=tuple("abcdefg"), patients=2))
    figures = save_figures(comparison, tmp_path / "figures")
    check_files(figures, patients=2)
    by_key = {figure.key: figure for figure in figures}
    assert set(by_key) == set(KEYS)
    for key in ("heat_map", "strips"):
        assert "each number of available sequences" in by_key[key].caption
    shown = shown_subsets(comparison)
    assert [len(subset.split("+")) for subset in shown.names] == [7, 5, 3, 1, 1]
    assert shown.rule == (
        "the whole set, then of 5, 3 and 1 sequences (spread evenly over 7 evaluated numbers) each the subset"
        " with the lowest mean Dice of the reference run, and last the best of 1 sequence"
    )


THE_WHOLE, LOWEST = "the whole set", "subset with the lowest mean Dice of the reference run"
BEST = "and last the best of 1 sequence"


@pytest.mark.parametrize(
    ("modalities", "kept", "names", "rule"),
    [
        (
            "abcd",
            None,
            ["a+b+c+d", "a+b+c", "a+b", "a", "d"],
            f"{THE_WHOLE}, then of 3, 2 and 1 sequences each the {LOWEST}, {BEST}",
        ),
        (
            "abcde",
            None,
            ["a+b+c+d+e", "a+b+c+d", "a+b", "a", "e"],
            f"{THE_WHOLE}, then of 4, 2 and 1 sequences (spread evenly over 5 evaluated numbers) each the"
            f" {LOWEST}, {BEST}",
        ),
        ("abcd", ["b", "d"], ["b", "d"], f"of 1 sequence the {LOWEST}, {BEST}"),
        ("abcd", ["b"], ["b"], f"of 1 sequence the {LOWEST}"),
        ("abcd", ["a+b+c+d"], ["a+b+c+d"], "the whole set"),
        (
            "abcd",
            ["a+b", "b+d"],
            ["a+b", "b+d"],
            f"of 2 sequences the {LOWEST}, and last the best of 2 sequences",
        ),
    ],
    ids=["four", "five", "two of one", "one", "all", "two of two"],
)
def test_the_caption_says_how_the_subsets_were_chosen(evaluation, modalities, kept, names, rule):
    folder = evaluation("a", modalities=tuple(modalities), patients=1)
    if kept:
        only_subsets(folder, kept)

    def better_with_later_letters(table):
        letters = table["subset"].map(lambda subset: sum(map(ord, subset.replace("+", ""))) / 1e4)
        return table.assign(dice=letters)

    change_metrics(folder, better_with_later_letters)
    shown = shown_subsets(compared(folder))
    assert list(shown.names) == names
    assert shown.rule == rule


def test_one_subset_has_neither_lines_nor_importance(evaluation, tmp_path):
    folder = evaluation("a", modalities=("CT",), patients=2)
    assert [f.key for f in save_figures(compared(folder), tmp_path / "f")] == ["heat_map", "strips"]


def test_many_runs_keep_the_reference_and_say_so(evaluation):
    folders = [evaluation(name, seed=i, patients=2) for i, name in enumerate("abcd")]
    names, text = chosen_runs(compared(*folders, reference="d"), 3)
    assert names == ["a", "b", "d"]
    assert "Of 4 runs" in text
    assert chosen_runs(compared(*folders), 4) == (list("abcd"), "")


def test_the_case_is_the_median_of_those_on_disk(evaluation):
    folder = scored_as_on_disk(evaluation("a", patients=4, images=True))
    path = folder / "metrics.csv"
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    order = {"P-000-000": 0.4, "P-001-000": 0.9, "P-002-000": 0.6, "P-003-000": 0.1}
    table.assign(dice=table["case"].map(order)).to_csv(path, index=False)
    comparison = compared(folder)
    subsets = shown_subsets(comparison).names
    # Ranked 3, 0, 2, 1: the lower median, then its neighbours.
    ranked = ["P-000-000", "P-003-000", "P-002-000", "P-001-000"]
    assert shown_cases(comparison, comparison.runs, subsets) == ranked
    comparison.runs[0].evaluations[0].prediction("P-000-000", subsets[0]).unlink()
    assert shown_cases(comparison, comparison.runs, subsets)[0] == "P-002-000"


def test_why_there_is_no_picture_of_a_case(evaluation, caplog):
    folder = evaluation("a", patients=2, images=True)  # the made-up counts are not those of the files
    assert draw_qualitative(compared(folder)) is None
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == [
        f"case {case} is not shown: the reference of case {case} is not the one that was scored"
        for case in ("P-000-000", "P-001-000")
    ]
    assert said[2:] == ["no picture of a case: none of 2 cases can be shown"]
    caplog.clear()
    (folder.parent / "images" / "P-000-000-seg.nii.gz").unlink()
    draw_qualitative(compared(folder))
    assert caplog.records[-1].getMessage() == "no picture of a case: the one case on disk cannot be shown"
    caplog.clear()
    (folder.parent / "images" / "P-001-000-seg.nii.gz").unlink()
    draw_qualitative(compared(folder))
    (record,) = caplog.records
    assert record.getMessage().endswith("reference and every prediction to be shown on disk")


def test_the_background_is_of_an_available_modality():
    images = dict.fromkeys(("t1n", "t1c", "t2w"), "file")
    assert background_of("t1n+t1c", images) == "t1c"
    assert background_of("t1n", images) == "t1n"
    assert background_of("t1n+t2f", images) == "t1n"
    assert background_of("t2f", images) is None


def test_labels_in_the_values_of_their_source_are_mapped(evaluation):
    folder = scored_as_on_disk(evaluation("a", patients=1, images=True))
    known, case = read_evaluation(folder), "P-000-000"
    subset = known.record.subsets[0]
    files = (known.record.cases[case].reference, known.prediction(case, subset))
    expected = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in files]
    assert all((array == 3).any() for array in expected)
    for path, array in zip(files, expected, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(np.where(array == 3, 4, array).astype(np.uint8)), str(path))
    with pytest.raises(UnreadableError, match="not the one that was scored"):
        read_reference(known, case)
    record = json.loads((folder / "evaluation.json").read_text())
    record["cases"][case]["label_map"] = record["prediction_label_map"] = {"0": 0, "1": 1, "2": 2, "4": 3}
    (folder / "evaluation.json").write_text(json.dumps(record))
    known = read_evaluation(folder)
    np.testing.assert_array_equal(read_reference(known, case).array, expected[0])
    np.testing.assert_array_equal(read_prediction(known, case, subset).array, expected[1])


def test_segmentations_that_lie_elsewhere_are_shown(evaluation, tmp_path):
    """What --predictions scored stays where it was; its record says where."""
    folder = scored_as_on_disk(evaluation("a", patients=2, images=True))
    (folder / "predictions").rename(tmp_path / "theirs")
    comparison = compared(folder)
    assert shown_cases(comparison, comparison.runs, shown_subsets(comparison).names) == []
    record = json.loads((folder / "evaluation.json").read_text())
    record["predictions"] = {subset: f"../theirs/{subset}" for subset in record["subsets"]}
    (folder / "evaluation.json").write_text(json.dumps(record))
    comparison = compared(folder)
    assert len(shown_cases(comparison, comparison.runs, shown_subsets(comparison).names)) == 2
