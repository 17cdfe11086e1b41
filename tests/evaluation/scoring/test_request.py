"""A request: what it refuses, and the command that it is equal to."""

from __future__ import annotations

import shlex

import pytest

from nnunetv2_mstkd.commands.evaluate import _parser, _request
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.scoring.request import EvaluationRequest
from nnunetv2_mstkd.inference.folder import Part


def request(**options) -> EvaluationRequest:
    return EvaluationRequest(**({"output": "a b", "model": "m", "device": "cuda:1"} | options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "-m m"),
        ({"part": Part(1, 2), "verbose": True}, "-m m"),
        ({"folds": 0, "cases": "cases", "labels": "l"}, "-m m -f 0 --cases cases --labels l"),
        ({"folds": (0, 1), "device": "cpu"}, "-m m -f 0 1 -device cpu"),
        ({"subsets": "t1c,t2f"}, "-m m --subsets t1c t2f"),
        ({"cases": "cases.csv"}, "-m m --cases cases.csv"),
        (
            {"cases": "c", "patterns": ["t1c=*_post.nii", "seg=*_m*"], "one_case": True},
            "-m m --cases c --one-case --pattern 't1c=*_post.nii' --pattern 'seg=*_m*'",
        ),
        ({"subsets": ("t1c+t2f", "t1n"), "policy": "nnunet"}, "-m m --subsets t1c+t2f t1n --policy nnunet"),
        ({"lesionwise": "default"}, "-m m --lesionwise brats2023-gli"),
        (
            {"mirroring": False, "step_size": 1.0, "readers": 1, "writers": 0, "checkpoint": "c.pth"},
            "-m m -chk c.pth -step_size 1.0 -npp 1 -nps 0 --disable_tta",
        ),
        (
            {"everything_on_device": False, "trust_checkpoint": True, "executor": "dask://h:1"},
            "-m m --executor dask://h:1 --not_on_device --trust_checkpoint",
        ),
        (
            {"model": None, "predictions": "p", "labels": "l", "source_labels": True},
            "--predictions p --labels l --source_labels",
        ),
    ],
)
def test_the_command_asks_for_the_same(options, words):
    wanted = request(**options)
    assert wanted.command() == f"nnUNetv2_mstkd evaluate -o 'a b' {words}"
    typed = _request(_parser().parse_args(shlex.split(wanted.command())[2:]))
    assert typed.command() == wanted.command()


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("Dataset226_X/T__P__3d", "-d Dataset226_X -c 3d -tr T -p P -f 0 1"),
        ("Dataset226_X/renamed", "-m {folder}"),
        ("models/T__P__3d", "-m {folder}"),
    ],
)
def test_a_model_is_named_where_nnunet_finds_it(tmp_path, place, known):
    command = request(model=tmp_path / place).command((0, 1))
    assert command == "nnUNetv2_mstkd evaluate -o 'a b' " + known.format(folder=tmp_path / place)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": None}, "name a model to evaluate, or a folder of predictions"),
        ({"policy": "mine"}, "--policy mine is not known; there are brats, nnunet, official"),
        ({"lesionwise": "mine"}, "--lesionwise mine is not known"),
        ({"subsets": ()}, "--subsets names nothing"),
        ({"step_size": 0.0}, r"step_size 0.0 is not in \(0, 1\]"),
        ({"readers": -1}, "numbers of threads"),
        ({"predictions": "p"}, "--predictions needs --labels"),
        ({"predictions": "p", "labels": "l"}, "--predictions needs no model"),
        ({"source_labels": True}, "--source_labels belongs to --cases FOLDER"),
        ({"one_case": True}, "--pattern and --one-case belong to --cases FOLDER"),
        ({"cases": "c", "patterns": ["t1c"]}, "--pattern 't1c' is not NAME=GLOB"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(MSTKDError, match=says):
        request(**options)


def test_a_table_stands_in_the_place_of_cases():
    arguments = ["-o", "o", "-m", "m", "--table", "cases.csv"]
    assert str(_request(_parser().parse_args(arguments)).cases) == "cases.csv"
    with pytest.raises(MSTKDError, match="--cases and --table both"):
        _request(_parser().parse_args([*arguments, "--cases", "folder"]))
