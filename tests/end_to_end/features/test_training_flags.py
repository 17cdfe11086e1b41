"""nnUNetv2_train's flags beside ``--c``: validation, checkpointing, pretrained weights, several GPUs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_commands import BASE_PLANS, DATASET, PLANS, SHORT, SIZES, model_folder, train, voxels

OTHER_PATCH = "nnUNetOtherPatchPlans"


@pytest.fixture(scope="module")
def own(models, tmp_path_factory) -> Path:
    """A results folder of this module's own, with fold 0 of 3d_fullres in it; returns the fold."""
    results = tmp_path_factory.mktemp("flags")
    model = model_folder(models, "3d_fullres")
    shutil.copytree(model / "fold_0", results / DATASET / model.name / "fold_0")
    return results / DATASET / model.name / "fold_0"


def results_of(fold: Path) -> str:
    return str(fold.parents[2])


@pytest.mark.slow
def test_npz_leaves_probabilities_of_the_validation_cases(models):
    validation = model_folder(models, "3d_fullres") / "fold_0" / "validation"
    cases = json.loads((models.preprocessed / DATASET / "splits_final.json").read_text())[0]["val"]
    assert sorted(p.stem for p in validation.glob("*.npz")) == sorted(cases)
    for case in cases:
        probabilities = np.load(validation / f"{case}.npz")["probabilities"]
        assert probabilities.shape == (4, 40, 40, 40)  # one per region of BraTS 2024
        assert 0 <= probabilities.min() <= probabilities.max() <= 1


@pytest.mark.slow
def test_val_repeats_the_validation_of_a_finished_training(models, own):
    before = json.loads((own / "validation" / "summary.json").read_text())["foreground_mean"]
    shutil.rmtree(own / "validation")
    models.run(train("3d_fullres", 0, "--val"), nnUNet_results=results_of(own))
    after = json.loads((own / "validation" / "summary.json").read_text())["foreground_mean"]
    assert after == before
    assert not list((own / "validation").glob("*.npz"))


@pytest.mark.slow
def test_val_best_uses_checkpoint_best(models, own):
    """A checkpoint_best that finds nothing anywhere, as a trained one would not."""
    file = own / "checkpoint_best.pth"
    checkpoint = torch.load(file, weights_only=False)
    head = "decoder.seg_layers.1"
    checkpoint["network_weights"][f"{head}.weight"].zero_()
    checkpoint["network_weights"][f"{head}.bias"].fill_(-9)
    torch.save(checkpoint, file)
    models.run(train("3d_fullres", 0, "--val", "--val_best"), nnUNet_results=results_of(own))
    written = list((own / "validation").glob("*.nii.gz"))
    assert len(written) == 2
    assert not any(voxels(f).any() for f in written)


@pytest.mark.slow
def test_disable_checkpointing_trains_and_validates_and_writes_no_checkpoint(models):
    command = train(
        "3d_fullres", 0, "--disable_checkpointing", tr="nnUNetTrainerModalityDropout", p=BASE_PLANS
    )
    models.run(command)
    fold = model_folder(models, "3d_fullres", tr="nnUNetTrainerModalityDropout", p=BASE_PLANS) / "fold_0"
    assert not list(fold.glob("*.pth"))
    assert (fold / "validation" / "summary.json").is_file()


@pytest.mark.slow
def test_pretrained_weights_of_another_patch_size_with_nnunets_own_command(models):
    """Of a training whose steps are too small to show, so that its weights are those that it began with."""
    still = SHORT.replace("num_epochs=2", "num_epochs=2 initial_lr=1e-30 weight_decay=0")
    sizes = SIZES.replace("16 16 16", "24 28 20") + " --token-patch 1"  # the planner would choose 1 2 1
    plan = f"nnUNetv2_mstkd plan -d 901 -c 3d_fullres {sizes} -overwrite_plans_name {OTHER_PATCH}"
    models.run(f"{plan} --set {still}")
    file = model_folder(models, "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    command = train("3d_fullres", 0, "-pretrained_weights", str(file), p=OTHER_PATCH)
    models.run(command.replace("nnUNetv2_mstkd train", "nnUNetv2_train"))
    trained = model_folder(models, "3d_fullres", p=OTHER_PATCH)
    patch = json.loads((trained / "plans.json").read_text())["configurations"]["3d_fullres"]["patch_size"]
    assert patch == [24, 28, 20]
    given, found = (
        torch.load(f, weights_only=False)["network_weights"]
        for f in (file, trained / "fold_0" / "checkpoint_final.pth")
    )
    assert set(found) == set(given)
    # nnU-Net does not transfer segmentation heads.
    differ = {name for name in given if not torch.equal(found[name], given[name])}
    assert differ
    assert all(".seg_layers." in name for name in differ)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-num_gpus 2 -device cpu", "-num_gpus 2 needs GPUs, not -device cpu"),
        pytest.param("-num_gpus 99", "-num_gpus 99, but this process sees", marks=pytest.mark.slow),
    ],
)
def test_more_processes_than_gpus_are_refused_before_anything_starts(new_workplace, flags, message):
    work = new_workplace("gpus")
    command = f"nnUNetv2_mstkd train 901 3d_fullres 0 -tr nnUNetTrainerMSTKD -p {PLANS} {flags}"
    done = work.run(command, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(work.results.iterdir())
