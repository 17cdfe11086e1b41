"""The benchmark of start-up sees what commands open. How long they take is not asked here."""

from __future__ import annotations

import json
import os
import sys

import pytest

from benchmarks import start_up
from benchmarks.file_watch import Waiting
from benchmarks.nnunet_folders import nnunet_folders
from benchmarks.untrained import small_case
from nnunetv2_mstkd.errors import MSTKDError

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


def test_the_help(tmp_path):
    output = tmp_path / "start_up.json"
    assert start_up.main(["--trainers", "--repeats", "1", "--json", str(output)]) == 0
    shown = json.loads(output.read_text())["results"]["help"]
    assert set(shown["median"]) == {"help", "python"}
    assert shown["imports_torch"] is False
    assert 10 < shown["modules"] < 400


def test_modules_of_an_import_profile():
    lines = (
        "import time: self [us] | cumulative | imported package",
        "import time:       100 |        100 |   encodings.aliases",
        "a message",
        "import time:       200 |        300 | encodings",
    )
    assert start_up.imported_modules("\n".join(lines)) == ["encodings.aliases", "encodings"]


@pytest.fixture
def files(tmp_path):
    names = [tmp_path / name for name in ("checkpoint", "image_0", "image_1")]
    for name in names:
        name.write_text("content")
    return names


@linux
@pytest.mark.parametrize("image", [1, 2])
def test_a_command_is_ended_when_it_opens_an_image_after_the_checkpoint(files, image):
    opened = f"cat {files[image]} {files[0]} {files[image]} >&2; exec sleep 600"
    seconds, text = start_up.until_opened(["sh", "-c", opened], ([files[0]], files[1:]), os.environ)
    assert seconds > 0
    assert text.startswith("content" * 2)


@linux
def test_a_command_that_opens_no_image_is_named(files):
    command = ["sh", "-c", f"cat {files[1]} {files[0]}; echo no reason >&2"]
    with pytest.raises(MSTKDError, match="sh opened no image: no reason"):
        start_up.until_opened(command, ([files[0]], files[1:]), os.environ)


def test_openings_count_group_after_group(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    waiting = Waiting([[first], [second]])
    assert not waiting.done([second])
    assert not waiting.done([first, first])
    assert not waiting.done([])
    assert waiting.done([first, second])


def test_elsewhere_it_says_that_it_needs_linux(files, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MSTKDError, match="use Linux"):
        start_up.until_opened(["true"], ([files[0]], files[1:]), os.environ)


@pytest.mark.parametrize("trainer", start_up.TRAINERS)
def test_the_model_is_one_that_predict_takes(trainer):
    from nnunetv2_mstkd.datasets.discovery import discover
    from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
    from nnunetv2_mstkd.models.folder import open_model_folder

    with nnunet_folders(nnUNet_extTrainer="") as folders:
        model = open_model_folder(start_up.untrained_model(folders.results, trainer).parents[1])
        small_case(folders.root / "images", start_up.PATCH)
        (case,) = discover(folders.root / "images", model.modalities).cases
        predictor = MissingModalityPredictor.load(model, device="cpu", mirroring=False)
        assert set(predictor.predict(case).array.ravel()) <= {0, 1, 2, 3}


@linux
@pytest.mark.slow  # six starts of Python with torch
def test_both_predict_commands():
    result = start_up.measure_predict("nnUNetTrainerMSTKD", repeats=1)
    assert set(result["median"]) == {"ours", "nnunet"}
    assert result["ratio"] == pytest.approx(result["median"]["ours"] / result["median"]["nnunet"])
    assert result["modules"]["ours"] < result["modules"]["nnunet"]


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/here")
    monkeypatch.delenv("nnUNet_results", raising=False)
    with nnunet_folders(more="than before") as folders:
        assert os.environ["nnUNet_raw"] == str(folders.raw)  # noqa: SIM112
        assert folders.results.is_dir()
    assert os.environ["nnUNet_raw"] == "/here"  # noqa: SIM112
    assert not {"nnUNet_results", "more"} & set(os.environ)
    assert not folders.root.exists()
