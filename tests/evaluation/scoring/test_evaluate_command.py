"""The command: what it writes, that it goes on where it was stopped, that parts make a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluated_model import CASES, INCOMPLETE, SUBSETS, model_flags, refuse_to_load, voxels

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.evaluation.record.record import METRIC_COLUMNS, read_evaluation


def test_a_row_per_case_subset_and_region(whole):
    table = read_evaluation(whole).metrics
    assert tuple(table.columns) == METRIC_COLUMNS
    # The incomplete case has 3 subsets of what it has.
    assert len(table) == (2 * SUBSETS + 3) * 3
    assert set(table[table.case == INCOMPLETE].subset) == {"t1c", "t2f", "t1c+t2f"}
    assert not table.duplicated(["case", "subset", "region"]).any()
    assert set(table.policy) == {"brats"}
    model = read_evaluation(whole).record.model
    assert set(table.model) == {f"{model['name']}@{model['id'][:12]}"}, "folds have one name"


def test_scores_are_those_of_the_segmentations_that_lie_there(whole, folder):
    """Counted again from the files, by other means."""
    for row in read_evaluation(whole).metrics.itertuples():
        predicted = voxels(whole / "predictions" / row.subset / f"{row.case}.nii.gz")
        reference = voxels(folder / row.case / f"{row.case}-seg.nii.gz")
        labels = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}[row.region]
        a, b = np.isin(predicted, labels), np.isin(reference, labels)
        assert (row.tp, row.fp, row.fn) == ((a & b).sum(), (a & ~b).sum(), (b & ~a).sum())
        assert row.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert row.volume_reference == pytest.approx(b.sum() * 0.9 * 1.0 * 1.2, rel=1e-5)


def test_a_subset_is_segmented_as_a_folder_without_the_other_files(whole, models, folder, tmp_path):
    for subset in ("t1c", "t1n+t2f", "t1n+t1c+t2w+t2f"):
        for case in CASES:
            for name in subset.split("+"):
                (tmp_path / subset / case).mkdir(parents=True, exist_ok=True)
                file = f"{case}-{name}.nii.gz"
                shutil.copyfile(folder / case / file, tmp_path / subset / case / file)
        flags = ("-m", models.regions, "-f", "0", "-device", "cpu", "--disable_tta", "-step_size", "1")
        flags = ("-i", tmp_path / subset, "-o", tmp_path / f"out_{subset}", *flags)
        assert main(["predict", *map(str, flags)]) == 0
        for case in CASES:
            expected = voxels(tmp_path / f"out_{subset}" / f"{case}.nii.gz")
            np.testing.assert_array_equal(voxels(whole / "predictions" / subset / f"{case}.nii.gz"), expected)


def test_nnunets_summary_is_nnunets(whole, folder, tmp_path):
    """Against nnU-Net's own function on the same files."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    (tmp_path / "references").mkdir()
    for case in CASES:
        shutil.copyfile(folder / case / f"{case}-seg.nii.gz", tmp_path / "references" / f"{case}.nii.gz")
    shutil.copytree(whole / "predictions" / "t1c+t2w", tmp_path / "predictions")
    ours = json.loads((tmp_path / "predictions" / "summary.json").read_text())
    theirs = compute_metrics_on_folder(
        *(str(tmp_path / "references"), str(tmp_path / "predictions"), None),
        *(SimpleITKIO(), ".nii.gz", [(1, 2, 3), (1, 3), (3,)]),
        num_processes=1,
    )
    assert set(ours["metric_per_case"][0]) == set(theirs["metric_per_case"][0])
    for mine, other in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        for label, values in other["metrics"].items():
            assert mine["metrics"][str(label)] == pytest.approx(values, nan_ok=True)
    for label, values in theirs["mean"].items():
        assert ours["mean"][str(label)] == pytest.approx(values)
    assert ours["foreground_mean"] == pytest.approx(theirs["foreground_mean"])


def test_the_table_is_laid_out_like_the_published_ones(whole):
    lines = (whole / "table.md").read_text().splitlines()
    header = next(line for line in lines if line.startswith("| metric"))
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns[2:6] == ["t2w", "t1c", "t1n", "t2f"]
    assert columns[-2:] == ["t1n+t1c+t2w+t2f", "Avg."]
    table = read_evaluation(whole).metrics
    stored = pd.read_csv(whole / "table.csv", index_col=["metric", "region"])
    means = table[table.region == "TC"].groupby("subset")["dice"].mean()
    assert stored.loc[("dice", "TC"), "t1c"] == pytest.approx(means["t1c"])
    assert stored.loc[("dice", "TC"), "Avg."] == pytest.approx(means.mean())
    row = next(line for line in lines if line.startswith("| Dice (%) | TC"))
    assert row.strip("| ").split(" | ")[-1] == f"{100 * means.mean():.1f}"
    assert "Of 3 cases, those scored under: t2w 2" in lines[-1]


def test_the_record_says_what_it_was_made_with(whole, models):
    record = read_evaluation(whole).record
    assert record.model["name"] == models.regions.name
    assert record.model["folds"] == [0]
    assert len(record.model["id"]) == 64
    assert record.model["inference"] == {"step_size": 1.0, "mirroring": False}
    assert record.command.startswith("nnUNetv2_mstkd evaluate -o ")
    assert record.versions["nnunetv2"]
    assert record.cases[CASES[0]].patient == "BraTS-GLI-00001"
    assert set(record.cases[INCOMPLETE].images) == {"t1c", "t2f"}


def test_nothing_finished_is_done_again(whole, models, folder, tmp_path, evaluate, monkeypatch):
    refuse_to_load(monkeypatch)
    shutil.copytree(whole, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.nii.gz")}
    done = evaluate(tmp_path / "out", *model_flags(models.regions, folder))
    assert done.code == 0, done.err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.nii.gz")} == before
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_another_policy_needs_no_network(whole, models, folder, tmp_path, evaluate, monkeypatch):
    refuse_to_load(monkeypatch)
    shutil.copytree(whole, tmp_path / "out")
    done = evaluate(tmp_path / "out", *model_flags(models.regions, folder), "--policy", "official")
    assert done.code == 0, done.err
    table = read_evaluation(tmp_path / "out").metrics
    assert set(table.policy) == {"official"}
    smoothed = (2 * table.tp + 1) / (2 * table.tp + table.fp + table.fn + 1)
    np.testing.assert_allclose(table.dice, smoothed)


def test_a_stopped_run_goes_on(whole, models, folder, tmp_path, evaluate):
    """One score lost after its segmentation was written, one lost with it."""
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    for case, subset in ((CASES[0], "t1c"), (CASES[1], "t2w+t2f")):
        path = output / "cases" / f"{case}.json"
        content = json.loads(path.read_text())
        del content["subsets"][subset]
        path.write_text(json.dumps(content))
    (output / "predictions" / "t2w+t2f" / f"{CASES[1]}.nii.gz").unlink()
    (output / "metrics.csv").unlink()
    done = evaluate(output, *model_flags(models.regions, folder))
    assert done.code == 0, done.err
    assert (output / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_parts_make_the_whole(whole, models, folder, tmp_path, evaluate):
    chosen = ("t1c", "t2f", "t1c+t2f")
    flags = (*model_flags(models.regions, folder), "--subsets", *chosen, "-num_parts", 2)
    first = evaluate(tmp_path / "out", *flags, "-part_id", 1)
    assert first.code == 0
    assert "6 are missing" in first.out
    assert evaluate(tmp_path / "out", *flags, "-part_id", 0).code == 0
    mine, table = read_evaluation(tmp_path / "out"), read_evaluation(whole).metrics
    expected = table[table.subset.isin(chosen)].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine.metrics, expected)
    # One command does what the two did, and names the model by what nnU-Net calls it.
    assert [session.scored for session in mine.record.sessions] == [3, 6]
    assert {session.command for session in mine.record.sessions} == {mine.record.command}
    named = "-d Dataset990_Tiny -c 3d_fullres -tr nnUNetTrainerModalityDropout -p nnUNetPlans -f 0"
    assert named in mine.record.command
    assert "-part_id" not in mine.record.command
    assert str(models.regions) not in mine.record.command


def test_some_subsets_and_lesions(models, folder, tmp_path, evaluate):
    flags = (*model_flags(models.regions, folder), "--subsets", "flair+T1Gd,t2", "t2f", "--lesionwise")
    done = evaluate(tmp_path / "out", *flags)
    assert done.code == 0, done.err
    evaluation = read_evaluation(tmp_path / "out")
    assert evaluation.record.subsets == ("t2w", "t2f", "t1c+t2f")
    assert evaluation.record.lesionwise == "brats2023-gli"
    assert evaluation.metrics["lesion_dice"].between(0, 1).all()
    assert "Lesion-wise HD95 (mm)" in (tmp_path / "out" / "table.md").read_text()


def test_segmentations_that_are_there_already(whole, folder, tmp_path, evaluate):
    for case in (*CASES, INCOMPLETE):
        (tmp_path / "labels").mkdir(exist_ok=True)
        shutil.copyfile(folder / case / f"{case}-seg.nii.gz", tmp_path / "labels" / f"{case}.nii.gz")
    flags = ("--labels", tmp_path / "labels", "--disable_progress_bar")
    done = evaluate(tmp_path / "all", "--predictions", whole, *flags)
    assert done.code == 0, done.err
    expected = read_evaluation(whole).metrics.drop(columns="model")
    key = ["case", "subset", "region"]
    found = read_evaluation(tmp_path / "all").metrics.drop(columns="model")
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True)
    )
    # The record finds them where they are, and nnU-Net's summary names them.
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copytree(whole, moved / "whole")
    assert evaluate(moved / "all", "--predictions", moved / "whole", *flags).code == 0
    scored = read_evaluation(moved / "all")
    assert scored.record.predictions["t1c"] == "../whole/predictions/t1c"
    summary = json.loads((moved / "all" / "predictions" / "t1c" / "summary.json").read_text())
    listed = [case["prediction_file"] for case in summary["metric_per_case"]]
    assert listed == [str(scored.prediction(case, "t1c")) for case in (*CASES, INCOMPLETE)]
    assert all(Path(path).is_file() for path in listed)
    moved.rename(tmp_path / "elsewhere")
    assert read_evaluation(tmp_path / "elsewhere" / "all").prediction(CASES[0], "t1c").is_file()
    # A folder of predict: modalities.json says which subset each case had.
    done = evaluate(tmp_path / "one", "--predictions", whole / "predictions" / "t1c", *flags)
    assert done.code == 0, done.err
    assert set(read_evaluation(tmp_path / "one").metrics.subset) == {"t1c"}
    (tmp_path / "foreign").mkdir()
    for case in CASES:
        shutil.copyfile(
            whole / "predictions" / "t1c" / f"{case}.nii.gz", tmp_path / "foreign" / f"{case}.nii.gz"
        )
    shutil.copyfile(whole / "predictions" / "t1c" / "dataset.json", tmp_path / "foreign" / "dataset.json")
    done = evaluate(tmp_path / "none", "--predictions", tmp_path / "foreign", *flags)
    assert done.code == 2
    assert "name the modalities that its segmentations are based on" in done.err
    done = evaluate(tmp_path / "named", "--predictions", tmp_path / "foreign", *flags, "--subsets", "t1c")
    assert done.code == 0, done.err
    assert set(read_evaluation(tmp_path / "named").metrics.subset) == {"t1c"}


@pytest.mark.slow
def test_a_dask_cluster_scores_the_same(whole, models, folder, tmp_path, evaluate):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        done = evaluate(tmp_path / "out", *model_flags(models.regions, folder), "--executor", address)
        with distributed.Client(cluster, set_as_default=False) as client:
            ran = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert done.code == 0, done.err
    assert all(count > 0 for count in ran.values()), "both workers scored"
    pd.testing.assert_frame_equal(read_evaluation(tmp_path / "out").metrics, read_evaluation(whole).metrics)


def bad(*flags, says, keep=()):
    return pytest.param(flags, says, keep, id=says[:40])


@pytest.mark.parametrize(
    ("flags", "says", "keep"),
    [
        bad("--cases", "val", says="--cases val needs one fold", keep=("-m", "-device")),
        bad("--subsets", "t1c+adc", says="unknown modality 'adc'"),
        bad("--subsets", ",", says="--subsets names nothing"),
        bad("--lesionwise", "brats1999", says="--lesionwise brats1999 is not known; there are brats2023-gli"),
        bad("--executor", "http://x", says="--executor 'http://x' is not understood"),
        bad("--cases", "all", "--source_labels", says="--source_labels belongs to --cases FOLDER"),
        bad("--cases", "all", "--labels", "x", says="--labels belongs to --cases FOLDER"),
        bad("--labels", "/nowhere", says="no reference segmentation in /nowhere"),
        bad("-num_parts", "2", "-part_id", "2", says="part 2 of 2 does not exist"),
        bad("-step_size", "0", says="-step_size 0.0 is not in (0, 1]"),
    ],
)
def test_what_cannot_be_is_refused(models, folder, tmp_path, evaluate, flags, says, keep):
    base = [str(flag) for flag in model_flags(models.regions, folder)]
    if keep:
        base = ["-m", str(models.regions), "-device", "cpu"]
    done = evaluate(tmp_path / "out", *base, *flags)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert says in line
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_an_output_among_the_cases_is_refused(models, folder, evaluate):
    done = evaluate(folder / "out", *model_flags(models.regions, folder))
    assert done.code == 2
    assert "lies in the input" in done.err
    assert not (folder / "out").exists()


def test_a_folder_of_something_else_is_left_alone(models, folder, tmp_path, evaluate):
    (tmp_path / "mine.txt").write_text("mine")
    done = evaluate(tmp_path, *model_flags(models.regions, folder))
    assert done.code == 2
    assert "is not empty and holds no evaluation" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_another_model_does_not_go_into_the_same_folder(whole, models, folder, tmp_path, evaluate):
    shutil.copytree(whole, tmp_path / "out")
    flags = [1 if flag == 0 else flag for flag in model_flags(models.regions, folder)]
    done = evaluate(tmp_path / "out", *flags)
    assert done.code == 2
    assert "holds an evaluation with other model id" in done.err
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_broken_image_costs_its_case_only(models, folder, tmp_path, evaluate):
    shutil.copytree(folder, tmp_path / "in")
    broken = tmp_path / "in" / CASES[0] / f"{CASES[0]}-t2f.nii.gz"
    broken.write_bytes(broken.read_bytes()[:400])
    flags = (*model_flags(models.regions, tmp_path / "in"), "--subsets", "t2f", "t1c")
    done = evaluate(tmp_path / "out", *flags)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"{CASES[0]} (2 subsets): ")
    assert "2 are missing" in done.out
    assert set(read_evaluation(tmp_path / "out").metrics.case) == {CASES[1], INCOMPLETE}
