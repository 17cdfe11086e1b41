"""A data set of links, and the files that they led to moved away."""

from __future__ import annotations

import shutil

import pytest
from test_bad_inputs import arguments, place, template  # noqa: F401  fixtures

from nnunetv2_mstkd.cli import main


@pytest.fixture
def moved(place):  # noqa: F811
    """Data set 5, converted as links to ``in``, which is elsewhere now."""
    assert main(arguments("convert", place)) == 0
    shutil.move(place / "in", place / "moved")
    (link, *_) = (place / "raw" / "Dataset005_A" / "imagesTr").iterdir()
    assert link.is_symlink()
    assert not link.exists()
    return place


@pytest.mark.parametrize("command", ["predict", "prepare"])
def test_predict_and_prepare_name_the_link_and_where_it_led(command, moved, capsys):
    images = moved / "raw" / "Dataset005_A" / "imagesTr"
    assert main(arguments(command, moved, {"-i": str(images)})) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {images}/" in line
    assert "No such file or directory; it is a link to ../../../in/" in line


def test_plan_says_so_before_it_writes(moved, capsys):
    raw, base = moved / "raw" / "Dataset005_A", moved / "preprocessed" / "Dataset005_A"
    shutil.copy(moved / "preprocessed" / "Dataset007_Planned" / "dataset_fingerprint.json", base)
    shutil.copy(raw / "dataset.json", base)
    assert main(arguments("plan", moved, {"-d": "5"})) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnUNetv2_mstkd plan: error: ")
    assert str(raw) in line
    assert not list(base.glob("*Plans.json"))


def test_moved_back_it_works_again(moved):
    shutil.move(moved / "moved", moved / "in")
    images = moved / "raw" / "Dataset005_A" / "imagesTr"
    assert main(arguments("predict", moved, {"-i": str(images)})) == 0
