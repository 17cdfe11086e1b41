"""``nnUNetv2_mstkd plan`` as a user runs it, without training."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

from nnunetv2_mstkd.cli import main


def _plan(*arguments: str) -> int:
    return main(["plan", *arguments])


def _configurations(folder: Path, name: str = "nnUNetMSTKDPlans") -> dict:
    return json.loads((folder / f"{name}.json").read_text())["configurations"]


@pytest.fixture
def refused(capsys):
    """Run the command, expect exit code 2 and one line on stderr, and return that line."""

    def run(*arguments: str) -> str:
        assert _plan(*arguments) == 2
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("nnUNetv2_mstkd plan: error: ")
        return lines[0]

    return run


def test_the_table_and_the_next_command(brats, capsys):
    assert _plan("-d", "226", "-c", "3d_fullres", "--patch-size", "64", "64", "64", "--batch-size", "2") == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0] == str(brats / "nnUNetMSTKDPlans.json")
    assert " ".join(output[1].split()) == "configuration patch batch features tokens parameters memory data"
    row = output[2].split()
    assert row[:5] == ["3d_fullres", "64x64x64", "2", "16,32,64,128", "4x4x4"]
    assert "nnUNetMSTKDPlans_3d_fullres (0 of 20 cases)" in output[2]
    assert "  nnUNetv2_preprocess -d 226 -plans_name nnUNetMSTKDPlans -c 3d_fullres" in output
    train = "nnUNetv2_mstkd train 226 3d_fullres 0 -p nnUNetMSTKDPlans -tr nnUNetTrainerConditionedDropout"
    assert output[-1] == f"next: {train}"


@pytest.mark.parametrize(
    ("flags", "trainer"),
    [
        (["--set", "full_phase=0.25"], "nnUNetTrainerConditionedDropout"),
        (["--set", "teacher=nested"], "nnUNetTrainerMSTKD"),
        (["--preset", "official", "-gpu_memory_target", "24"], "nnUNetTrainerMSTKDOfficial"),
        (["--network", "plans", "-overwrite_plans_name", "Stock"], "nnUNetTrainerModalityDropout"),
        (["--network", "plans", "-overwrite_plans_name", "Stock", "--set", "teacher=joint"],
         "nnUNetTrainerMSTKDUNet"),
    ],
)  # fmt: skip
def test_the_next_command_names_a_trainer_that_reads_the_settings(brats, capsys, flags, trainer):
    assert _plan("-d", "226", "-c", "3d_fullres", "--patch-size", "64", "64", "64", *flags) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"-tr {trainer}")


def test_data_of_nnunets_plans_is_reused_and_asked_for_if_missing(brats, capsys):
    plan_experiments([226])
    capsys.readouterr()
    assert _plan("-d", "226", "--patch-size", "128", "128", "128") == 0
    configurations = _configurations(brats)
    assert configurations["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
    assert configurations["2d"]["data_identifier"] == "nnUNetPlans_2d"
    command = "nnUNetv2_preprocess -d 226 -plans_name nnUNetPlans -c 2d 3d_fullres"
    assert command in capsys.readouterr().out


def test_complete_data_needs_no_preprocessing(brats, capsys):
    plan_experiments([226])
    for identifier in ("nnUNetPlans_2d", "nnUNetPlans_3d_fullres"):
        (brats / identifier).mkdir()
        for case in range(20):
            (brats / identifier / f"{case}.pkl").touch()
    capsys.readouterr()
    assert _plan("-d", "226", "--patch-size", "128", "128", "128") == 0
    output = capsys.readouterr().out
    assert "nnUNetPlans_3d_fullres (20 of 20 cases)" in output
    assert "nnUNetv2_preprocess" not in output


def test_settings_go_into_the_plans(brats):
    arguments = ["--set", "num_epochs=4", "teacher=joint", "--set", 'weights={"kl": 0.5}']
    assert _plan("-d", "226", "-c", "2d", *arguments) == 0
    expected = {"num_epochs": 4, "teacher": "joint", "weights": {"kl": 0.5}}
    assert _configurations(brats)["2d"]["mstkd"] == expected


def test_plans_of_nnunets_network_name_a_trainer_that_uses_it(brats, capsys):
    assert _plan("-d", "226", "-c", "2d", "--network", "plans", "-overwrite_plans_name", "Equal") == 0
    assert not (brats / "nnUNetPlans.json").exists()
    output = capsys.readouterr().out
    assert output.endswith("nnUNetv2_mstkd train 226 2d 0 -p Equal -tr nnUNetTrainerModalityDropout\n")


def test_an_explicit_size_over_the_target_is_obeyed_with_a_warning(brats, capsys):
    sizes = ["--patch-size", "160", "192", "160", "--batch-size", "40"]
    assert _plan("-d", "226", "-c", "3d_fullres", *sizes) == 0
    assert _configurations(brats)["3d_fullres"]["batch_size"] == 40
    assert "warning: 3d_fullres needs about" in capsys.readouterr().out


def test_one_bad_data_set_among_several_does_not_stop_the_others(brats, prostate, capsys):
    assert _plan("-d", "226", "404", "5", "-c", "2d") == 2
    assert (brats / "nnUNetMSTKDPlans.json").exists()
    assert (prostate / "nnUNetMSTKDPlans.json").exists()
    assert "data set 404: error: no data set '404'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_installed_command(brats):
    command = Path(sysconfig.get_path("scripts")) / "nnUNetv2_mstkd"
    done = subprocess.run(
        [command, "plan", "-d", "Dataset226_Brats", "-c", "2d"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "next: nnUNetv2_mstkd train 226 2d 0" in done.stdout
    assert set(_configurations(brats)) == {"2d"}


def test_memory_too_small_for_nnunets_network(brats, refused):
    arguments = ["--network", "plans", "-overwrite_plans_name", "Equal", "-gpu_memory_target", "0.00001"]
    assert "too small for any patch of this network" in refused("-d", "226", *arguments)


def test_tokens_matter_only_to_the_chosen_configurations(make_dataset):
    """nnU-Net plans 3d_fullres too; in so little memory its bottleneck is no larger than such a token."""
    folder = make_dataset("Dataset006_Small", ("CT",), (72, 72, 72), (1, 1, 1), 3)
    little = ["-gpu_memory_target", "0.3", "--base-features", "4", "--token-patch", "8"]
    assert _plan("-d", "6", "-c", "2d", *little) == 0
    assert _configurations(folder)["2d"]["architecture"]["arch_kwargs"]["token_patch_size"] == [8, 8]
    assert _plan("-d", "6", "-c", "3d_fullres", *little) == 2


def test_tokens_with_more_axes_than_the_data(slices, refused):
    expected = "--token-patch 1 1 2 fits no configuration of Dataset007_Slices, a data set of 2D images"
    assert expected in refused("-d", "7", "--token-patch", "1", "1", "2")


def test_a_setting_that_is_null_is_one_left_out(brats):
    assert _plan("-d", "226", "-c", "2d", "--set", "sampler=bernoulli", "keep_probability=null") == 0


def test_unset_environment(brats, refused, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert "nnUNet_preprocessed is not set" in refused("-d", "226")


@pytest.mark.parametrize("name", ["²", "", " ", "."])
def test_unknown_data_set(brats, refused, name):
    assert f"no data set '{name}'" in refused("-d", name)


def test_missing_fingerprint(brats, refused):
    (brats / "dataset_fingerprint.json").unlink()
    assert "run nnUNetv2_plan_and_preprocess -d 226 (or only" in refused("-d", "226")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("shapes_after_crop", [], "describes no case"),
        ("spacings", [[1, 0, 1]], "has a spacing of 0"),
    ],
)
def test_unusable_fingerprint(brats, refused, key, value, message):
    file = brats / "dataset_fingerprint.json"
    fingerprint = json.loads(file.read_text())
    file.write_text(json.dumps(fingerprint | {key: value}))
    error = refused("-d", "226")
    assert message in error
    assert "run nnUNetv2_extract_fingerprint -d 226 --clean" in error


@pytest.mark.parametrize("key", ["numTraining", "file_ending"])
def test_incomplete_dataset_json(brats, refused, key):
    file = brats.parents[1] / "nnUNet_raw" / brats.name / "dataset.json"
    dataset_json = json.loads(file.read_text())
    del dataset_json[key]
    file.write_text(json.dumps(dataset_json))
    assert f"dataset.json has no '{key}'" in refused("-d", "226")


def test_no_training_images(brats, refused):
    raw = brats.parents[1] / "nnUNet_raw" / brats.name
    dataset_json = json.loads((raw / "dataset.json").read_text())
    del dataset_json["dataset"]
    (raw / "dataset.json").write_text(json.dumps(dataset_json))
    for path in (raw / "imagesTr").iterdir():
        path.unlink()
    assert "no training images in" in refused("-d", "226")


def test_contradicting_splits(brats, refused):
    raw = brats.parents[1] / "nnUNet_raw" / brats.name
    (raw / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    (brats / "splits_final.json").write_text('[{"train": ["b"], "val": ["a"]}]')
    assert "splits_final.json of nnUNet_raw and of nnUNet_preprocessed differ" in refused("-d", "226")


def test_a_patch_with_three_axes_for_2d_images(slices, refused):
    assert "fits no configuration of Dataset007_Slices" in refused("-d", "7", "--patch-size", "8", "8", "8")
    assert not (slices / "nnUNetMSTKDPlans.json").exists()


def test_plans_of_another_planner_are_not_replaced(brats, refused):
    theirs = {"plans_name": "nnUNetResEncUNetMPlans", "experiment_planner_used": "nnUNetPlannerResEncM"}
    (brats / "nnUNetResEncUNetMPlans.json").write_text(json.dumps({**theirs, "configurations": {}}))
    message = refused("-d", "226", "-overwrite_plans_name", "nnUNetResEncUNetMPlans")
    assert "was written by nnUNetPlannerResEncM" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "3d_fullres", "--patch-size", "60", "64", "64"], "not divisible by 8 8 8"),
        (["-gpu_memory_target", "0.01"], "too small for any patch: the networks' weights"),
        (["-overwrite_target_spacing", "1", "1", "-1"], "give three numbers of mm from 0.001 to 1000"),
        (["-gpu_memory_target", "inf"], "-gpu_memory_target inf is not possible"),
        (["-gpu_memory_target", "1e300"], "-gpu_memory_target 1e+300 is not possible"),
        (["-overwrite_target_spacing", "1e300", "1", "1"], "give three numbers of mm from 0.001 to 1000"),
        (["-overwrite_target_spacing", "1e-300", "1", "1"], "give three numbers of mm from 0.001 to 1000"),
        (["-overwrite_target_spacing", "1", "nan", "1"], "give three numbers of mm from 0.001 to 1000"),
        (["-overwrite_target_spacing", "inf", "inf", "inf"], "give three numbers of mm from 0.001 to 1000"),
        (
            ["-c", "3d_fullres", "--patch-size", "1", "1", "1"],
            "--patch-size 1 1 1 leaves the network one resolution",
        ),
        (
            ["-c", "3d_fullres", "--patch-size", "32", "32", "32", "--token-patch", "8"],
            "--token-patch 8 leaves one token of the bottleneck of 4 x 4 x 4 voxels (patch 32 x 32 x 32);"
            " possible: 1, 2",
        ),
        pytest.param(
            ["-c", "3d_fullres", "--batch-size", "100000"],
            "with --batch-size 100000; lower that",
            marks=pytest.mark.slow,
        ),
        (
            ["-c", "3d_fullres", "--preset", "official", "--patch-size", "16", "16", "16"],
            "--patch-size 16 16 16 leaves one token of the bottleneck of 4 x 4 x 4 voxels"
            " (patch 16 x 16 x 16); give a larger one",
        ),
        (["--set", 'weights={"nonsense": 1}'], "unknown objective term 'nonsense'"),
        (
            ["--set", "sampler=weights", 'subset_weights={"t1c+t2f": 1, "flair+t1ce": 5}'],
            "subset_weights names a subset twice",
        ),
        (
            ["--set", 'subset_weights={"t1c+t2f": 1}'],
            "'subset_weights' in 'mstkd' of the plans has no effect while 'sampler' is 'uniform'; set",
        ),
        (["--set", "sampler=bernoulli", 'keep_probability={"zz": 0.3}'], "unknown modality 'zz'"),
        (
            ["--set", "sampler=bernoulli", 'keep_probability={"t1c": 0.5, "T1CE": 0.3}'],
            "names a modality twice: t1c, T1CE",
        ),
        (["--set", "sampler=weights"], "sampler 'weights' needs subset_weights"),
        (
            ["--set", "sampler=by_count", "keep_probability=0.3"],
            "no effect while 'sampler' is 'by_count'; set 'sampler' to 'bernoulli', or leave",
        ),
        (["--teacher", ""], "--teacher '' is no folder"),
        (["--teacher-fold", ""], "give --teacher FOLDER"),
        (["--set", "teacher="], "setting 'teacher' in 'mstkd' of the plans is ''"),
        (["-pl", "DatasetFingerprintExtractor"], "is not an experiment planner"),
    ],
)
def test_arguments_that_fit_nothing(brats, refused, arguments, message):
    assert message in refused("-d", "226", *arguments)
    assert not (brats / "nnUNetMSTKDPlans.json").exists()
