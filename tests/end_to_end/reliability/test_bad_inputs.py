"""Every bad input ends in one line that names it, exit code 2, no traceback, and nothing written."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_dataset
from bad_inputs import BAD_INPUTS, markdown, spoiling
from places import ROOT
from tiny_model import MODALITIES, dataset_json, plans_json, write_model

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.convert.convert import convert

DOCUMENT = ROOT / "docs" / "reliability.md"
# The good call of each command; a value may be several words.
CALLS = {
    "convert": {"-i": "{p}/in", "-d": "5", "--name": "A", "--format": "brats2023", "--num-processes": "1"},
    "prepare": {"-i": "{p}/in", "-o": "{p}/out", "-m": "{p}/model", "--disable_progress_bar": ""},
    "predict": {
        **{"-i": "{p}/in", "-o": "{p}/out", "-m": "{p}/model", "-device": "cpu"},
        **{"--disable_tta": "", "--disable_progress_bar": ""},
    },
    "plan": {"-d": "7", "-c": "3d_fullres"},
    "train": {"": "7 tiny 0", "-tr": "nnUNetTrainerMSTKD", "-device": "cpu"},
}
FOLDERS = ("raw", "preprocessed", "results")
# Written for the model before its first case, and by nnU-Net when it makes a trainer.
NO_RESULTS = ("out/dataset.json", "out/plans.json", "training_log_", "results/")


def _write_planned(place: Path, patch: pytest.MonkeyPatch) -> None:
    """Data set 7: converted, with a fingerprint and tiny plans."""
    for name in FOLDERS:
        (place / name).mkdir()
        patch.setenv(f"nnUNet_{name}", str(place / name))
    convert(place / "in", 7, "Planned", source_format="brats2023", copy=True)
    statistics = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
    channels = {str(channel): dict.fromkeys(statistics, 1.0) for channel in range(4)}
    fingerprint = {
        "spacings": [[1.0] * 3],
        "shapes_after_crop": [list(spoiling.SHAPE)],
        "foreground_intensity_properties_per_channel": channels,
        "median_relative_size_after_cropping": 1.0,
    }
    base = place / "preprocessed" / "Dataset007_Planned"
    (base / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    shutil.copy(place / "raw" / base.name / "dataset.json", base)
    length = {"num_epochs": 4, "num_iterations_per_epoch": 1}
    plans = tiny_dataset.plans(settings=length) | {"dataset_name": base.name}
    (base / "nnUNetPlans.json").write_text(json.dumps(plans))
    (base / "nnUNetPlans_3d").mkdir()
    tiny_dataset.write_case(base / "nnUNetPlans_3d", spoiling.CASE, 4, seed=0)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A place where every good call works; tests spoil copies of it."""
    place = tmp_path_factory.mktemp("template")
    (place / "in").mkdir()
    for seed, modality in enumerate(MODALITIES):
        spoiling.write(place, modality, spoiling.image(seed))
    segmentation = np.zeros(spoiling.SHAPE, np.uint8)
    segmentation[3:9, 3:9, 3:9] = np.random.default_rng(0).integers(1, 4, (6, 6, 6))
    spoiling.write(place, "seg", segmentation)
    write_model(place / "model", dataset_json(source_labels={"1": 1, "2": 2, "3": 4}), plans_json())
    (place / "empty").mkdir()
    (place / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        _write_planned(place, patch)
    return place


@pytest.fixture
def place(template, tmp_path, monkeypatch) -> Path:
    import torch

    place = tmp_path / "place"
    shutil.copytree(template, place)
    for name in FOLDERS:
        monkeypatch.setenv(f"nnUNet_{name}", str(place / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", sys.argv)  # train puts nnUNetv2_train's there
    return place


def arguments(command: str, place: Path, changes: dict[str, str | None] | None = None) -> list[str]:
    flags = CALLS[command] | dict(changes or {})
    words = [command]
    for flag, value in flags.items():
        if value is not None:
            many = flag in ("", "--patch-size", "-overwrite_target_spacing", "--set")
            value = value.replace("{p}", str(place))
            words += [flag] * bool(flag) + (value.split() if many else [value] * bool(value))
    return words


def files(place: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time; a link counts, whatever it leads to."""
    found = {str(path.relative_to(place)): path.lstat() for path in place.rglob("*") if not path.is_dir()}
    return {name: (state.st_size, state.st_mtime_ns) for name, state in found.items()}


@pytest.mark.parametrize("command", ["convert", "prepare", "predict", "plan"])
def test_the_call_itself_is_good(command, place, capsys):
    """Else the rows below would prove nothing. (Good trainings are run elsewhere.)"""
    before = files(place)
    assert main(arguments(command, place)) == 0, capsys.readouterr().err
    assert files(place) != before


@pytest.mark.parametrize("row", BAD_INPUTS, ids=[row.name for row in BAD_INPUTS])
def test_a_bad_input(row, place, capsys, monkeypatch, caplog):
    if row.spoil is not None:
        row.spoil(place)
    if row.unset:
        monkeypatch.delenv(row.unset)
    before = files(place)
    caplog.set_level(logging.CRITICAL)
    capsys.readouterr()
    assert main(arguments(row.command, place, row.flags)) == 2
    lines = capsys.readouterr().err.splitlines()
    if row.of_a_case and row.command == "convert":
        assert lines.pop().startswith("nnUNetv2_mstkd convert: error: 1 of ")
    (line,) = lines
    beginning = f"{spoiling.CASE}: " if row.of_a_case else f"nnUNetv2_mstkd {row.command}: error: "
    assert line.startswith(beginning)
    says = row.says.replace("{p}", str(place)).replace("{{", "{").replace("}}", "}")
    assert says in line
    after = files(place)
    assert {name: after.get(name) for name in before} == before, "what was there is untouched"
    written = {name for name in after if name not in before}
    assert {name for name in written if not name.startswith(NO_RESULTS)} == set()
    assert not any(name.endswith(".pth") for name in written)
    assert not (place / "owned").exists()


def test_the_list_is_long_enough_and_has_no_row_twice():
    assert len(BAD_INPUTS) >= 60
    assert len({row.name for row in BAD_INPUTS}) == len(BAD_INPUTS)
    assert {row.command for row in BAD_INPUTS} == set(CALLS)


def test_the_documentation_shows_this_table():
    text = DOCUMENT.read_text()
    assert markdown() in text, (
        "paste what `PYTHONPATH=tests/helpers:tests/end_to_end/reliability python -m bad_inputs` prints"
    )
    assert f"{len(BAD_INPUTS)} bad inputs" in text


@pytest.mark.parametrize(
    ("command", "changes", "named"),
    [
        ("convert", {"--format": "brats1999"}, "brats1999"),
        ("predict", {"-device": "tpu"}, "tpu"),
        ("predict", {"-npp": "many"}, "many"),
        ("prepare", {"--no_such_flag": ""}, "--no_such_flag"),
        ("plan", {"--preset": "huge"}, "huge"),
    ],
)
def test_a_flag_that_cannot_be_read_prints_the_usage(command, changes, named, place, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments(command, place, changes))
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: ")
    assert named in printed.splitlines()[-1]
    assert "Traceback" not in printed


# One of each command in a process of its own, as a user runs it.
IN_PROCESSES = [
    "convert: a truncated .nii.gz",
    "prepare: a model of CT, and no placeholder",
    "predict: a checkpoint that would run code",
    "plan: a negative weight",
    "train: a learning rate of 0",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_PROCESSES)
def test_a_bad_input_of_the_real_command(name, place):
    (row,) = (row for row in BAD_INPUTS if row.name == name)
    if row.spoil:
        row.spoil(place)
    call = [sys.executable, "-m", "nnunetv2_mstkd.cli", *arguments(row.command, place, row.flags)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}  # those of libraries, some at every import
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 + (row.command == "convert")
    assert row.says.split("{p}")[-1].replace("{{", "{").replace("}}", "}") in done.stderr
