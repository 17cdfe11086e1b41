"""``nnUNetv2_mstkd plan --init``: plans for a training that starts from given weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nnssl_checkpoint import ARGUMENTS, write_checkpoint
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunetv2_mstkd.cli import main

PATCH = ["--patch-size", "64", "64", "64"]
NAME = ["-overwrite_plans_name", "nnUNetInitPlans"]


@pytest.fixture
def model(brats: Path, tmp_path: Path) -> Path:
    """A finished model of stock nnU-Net on the data set, of two of its modalities."""
    options = ["-c", "3d_fullres", "--network", "plans", "--base-features", "4", *PATCH, "--batch-size", "3"]
    assert main(["plan", "-d", "226", *options, "-overwrite_plans_name", "Theirs"]) == 0
    plans = json.loads((brats / "Theirs.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [1.5, 1.25, 1.5]
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    raw = brats.parents[1] / "nnUNet_raw" / brats.name / "dataset.json"
    described = json.loads(raw.read_text()) | {"channel_names": {"0": "FLAIR", "1": "T1ce"}}
    names = (architecture[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    folder = tmp_path / "nnUNetTrainer__Theirs__3d_fullres"
    (folder / "fold_2").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(described))
    (folder / "plans.json").write_text(json.dumps(plans))
    weights = get_network_from_plans(*names, 2, 3).state_dict()
    torch.save({"network_weights": weights}, folder / "fold_2" / "checkpoint_final.pth")
    return folder


def planned(folder: Path, name: str = "nnUNetInitPlans") -> dict:
    return json.loads((folder / f"{name}.json").read_text())["configurations"]


def test_the_plans_name_the_weights_and_keep_to_their_network(brats, model, capsys):
    capsys.readouterr()
    assert main(["plan", "-d", "226", "--init", str(model), *NAME, "--set", "full_phase=0.5"]) == 0
    out = capsys.readouterr().out
    assert "3d_fullres: Input channels: t1c, t2f by name; t1n, t2w from the mean of t2f, t1c." in out
    assert "100.0% of the network's values, are taken" in out
    assert "-tr nnUNetTrainerModalityDropout" in out
    theirs = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    (ours,) = planned(brats).values()
    for key in ("architecture", "patch_size", "batch_size", "spacing"):
        assert ours[key] == theirs[key], key
    assert ours["mstkd"] == {"init": str(model), "full_phase": 0.5}


@pytest.mark.slow
def test_a_checkpoint_in_a_model_folder_says_as_much(brats, model, capsys):
    file = model / "fold_2" / "checkpoint_final.pth"
    assert main(["plan", "-d", "226", "--init", str(file), *NAME]) == 0
    assert "t1c, t2f by name" in capsys.readouterr().out
    theirs = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert planned(brats)["3d_fullres"]["architecture"] == theirs["architecture"]


def test_a_pre_trained_encoder_brings_its_network_and_patch(brats, tmp_path, capsys):
    file = write_checkpoint(tmp_path / "mae.pth", recommended_downstream_patchsize=[32, 64, 32])
    capsys.readouterr()
    assert main(["plan", "-d", "226", "--init", str(file), *NAME]) == 0
    out = capsys.readouterr().out
    assert "(the encoder of a pre-trained network)" in out
    assert "repeated for t1n, t1c, t2w, t2f and divided by 4" in out
    (ours,) = planned(brats).values()
    assert ours["patch_size"] == [32, 64, 32]
    assert ours["architecture"]["arch_kwargs"] == ARGUMENTS
    assert main(["plan", "-d", "226", "--init", str(file), *NAME, "--patch-size", "32", "32", "32"]) == 0
    assert planned(brats)["3d_fullres"]["patch_size"] == [32, 32, 32]


@pytest.mark.slow
def test_in_a_cascade_only_the_stage_that_was_named_starts_from_it(large, tmp_path):
    options = ["--network", "plans", "-overwrite_plans_name", "Theirs", "--patch-size", "64", "128", "128"]
    file = tmp_path / "one.pth"
    assert main(["plan", "-d", "9", "-c", "3d_lowres", *options]) == 0
    architecture = planned(large, "Theirs")["3d_lowres"]["architecture"]
    names = (architecture[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    torch.save({"network_weights": get_network_from_plans(*names, 1, 2).state_dict()}, file)
    settings = ["--set", f"init={file}", "num_epochs=5"]
    assert main(["plan", "-d", "9", "-c", "3d_cascade_fullres", *options, *settings]) == 0
    found = {name: entry.get("mstkd") for name, entry in planned(large, "Theirs").items()}
    assert found["3d_lowres"] == {"num_epochs": 5}
    assert found["3d_cascade_fullres"] == {"init": str(file), "num_epochs": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "nowhere"], "starting weights not found: nowhere"),
        (["--init-fold", "1"], "give --init FOLDER"),
        (["--init", ""], "--init '' is no folder or file"),
    ],
)
def test_what_is_no_start(brats, capsys, arguments, message):
    assert main(["plan", "-d", "226", *arguments, *NAME]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--init", "MODEL", "--init-fold", "0"], "no fold_0/checkpoint_final.pth; it has fold_2"),
        (["--init", "MODEL", "--set", "init=x"], "--init and --set init=... both name"),
        (["--init", "MODEL", "--network", "mstkdnet"], "of another kind of network (planned is MSTKDNet;"),
        (["--init", "MODEL", "--base-features", "8"], "does not fit: encoder"),
    ],
)
def test_wrong_starts_are_refused_and_nothing_written(brats, model, capsys, arguments, message):
    capsys.readouterr()
    given = [str(model) if a == "MODEL" else a for a in arguments]
    assert main(["plan", "-d", "226", *given, *NAME]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (brats / "nnUNetInitPlans.json").exists()
