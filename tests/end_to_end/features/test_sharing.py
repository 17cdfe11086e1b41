"""nnU-Net's model zips, its choice of the best configuration, ensembles, and several folds at once."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_commands import (
    BASE_PLANS,
    CASES,
    DATASET,
    PLANS,
    assert_equal_voxels,
    model_folder,
    predict,
    segmentations,
)

pytestmark = pytest.mark.slow
MSTKD, STOCK = f"nnUNetTrainerMSTKD -p {PLANS}", f"nnUNetTrainerFullModality -p {BASE_PLANS}"
ON_CPU = "-device cpu --disable_tta"


def probabilities(folder: Path) -> dict[str, np.ndarray]:
    return {case: np.load(folder / f"{case}.npz")["probabilities"].astype(float) for case in CASES}


def logit(values: np.ndarray) -> np.ndarray:
    return np.log(values) - np.log1p(-values)


@pytest.fixture(scope="module")
def prepared(models) -> str:
    """The incomplete cases as a complete folder for nnU-Net's own commands."""
    models.run(f"nnUNetv2_mstkd prepare -i cases -o prepared -d 901 -c 3d_fullres -tr {MSTKD}")
    return "prepared"


def test_a_model_goes_through_a_zip_and_segments_as_before(models, prepared, tmp_path):
    models.run_together(
        f"nnUNetv2_export_model_to_zip -d 901 -o {tmp_path}/model.zip -c 3d_fullres -tr {MSTKD} -f 0",
        predict("cases", f"{tmp_path}/before", "3d_fullres", "-f", "0"),
    )
    elsewhere = {"nnUNet_results": str(tmp_path / "results")}
    models.run(f"nnUNetv2_install_pretrained_model_from_zip {tmp_path}/model.zip", **elsewhere)
    installed = tmp_path / "results" / model_folder(models, "3d_fullres").relative_to(models.results)
    checkpoint = torch.load(installed / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert not {"teacher", "adversary"} & set(checkpoint["mstkd"]), "the student only"
    models.run(predict("cases", f"{tmp_path}/after", "3d_fullres", "-f", "0"), **elsewhere)
    assert_equal_voxels(tmp_path / "after", tmp_path / "before")
    stock = (
        f"nnUNetv2_predict -i {prepared} -o {tmp_path}/stock -d 901 -c 3d_fullres -tr {MSTKD} -f 0 {ON_CPU}"
    )
    models.run(stock, **elsewhere)
    assert_equal_voxels(tmp_path / "stock", tmp_path / "before")


def test_several_folds_are_the_mean_of_their_logits(models, tmp_path):
    keep = "--save_probabilities"
    models.run_together(
        predict("cases", f"{tmp_path}/0", "3d_fullres", "-f", "0", keep, p=BASE_PLANS),
        predict("cases", f"{tmp_path}/1", "3d_fullres", "-f", "1", keep, p=BASE_PLANS),
        predict("cases", f"{tmp_path}/both", "3d_fullres", "-f", "0", "1", keep, p=BASE_PLANS),
    )
    first, second, both = (probabilities(tmp_path / name) for name in ("0", "1", "both"))
    for case in CASES:
        assert not np.allclose(first[case], second[case], atol=0.01)
        # Probabilities are kept as 16-bit floats, and are 0 outside what nnU-Net cropped to.
        inside = (np.minimum(first[case], second[case]) > 0.01) & (
            np.maximum(first[case], second[case]) < 0.99
        )
        assert inside.mean() > 0.1
        mean = (logit(first[case][inside]) + logit(second[case][inside])) / 2
        np.testing.assert_allclose(logit(both[case][inside]), mean, atol=0.05)


def test_an_ensemble_of_a_stock_prediction_and_one_of_this_plugin(models, prepared, tmp_path):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    models.run_together(
        predict("cases", f"{tmp_path}/mstkd", "3d_fullres", "-f", "0", "--save_probabilities"),
        f"nnUNetv2_predict -i {prepared} -o {tmp_path}/stock -d 901 -c 3d_fullres -tr {STOCK} -f 0 {ON_CPU} "
        "--save_probabilities",
    )
    models.run(f"nnUNetv2_ensemble -i {tmp_path}/mstkd {tmp_path}/stock -o {tmp_path}/ensemble -np 1")
    model = model_folder(models, "3d_fullres")
    plans, dataset = (json.loads((model / f"{n}.json").read_text()) for n in ("plans", "dataset"))
    labels = PlansManager(plans).get_label_manager(dataset)
    mstkd, stock = (probabilities(tmp_path / name) for name in ("mstkd", "stock"))
    for name, array in segmentations(tmp_path / "ensemble").items():
        case = name.removesuffix(".nii.gz")
        mean = ((mstkd[case] + stock[case]) / 2).astype(np.float32)
        expected = labels.convert_probabilities_to_segmentation(mean)
        assert (array != expected).mean() < 1e-3, "but for ties of 16-bit floats"


@pytest.fixture(scope="module")
def chosen(models) -> str:
    """What nnUNetv2_find_best_configuration says to run, of two trainers on the same stock plans."""
    names = ("nnUNetTrainerMSTKD", "nnUNetTrainerFullModality")
    done = models.run(
        f"nnUNetv2_find_best_configuration 901 -tr {' '.join(names)} "
        f"-p {BASE_PLANS} -c 3d_fullres -f 0 1 -np 1"
    )
    listed = done.stdout.split("***All results:***")[1].split("*Best*")[0]
    for name in names:
        assert f"{name}__{BASE_PLANS}__3d_fullres: " in listed
    assert "ensemble___" in listed
    return (models.results / DATASET / "inference_instructions.txt").read_text()


def test_what_find_best_configuration_says_works(models, prepared, chosen, tmp_path):
    commands = [line for line in chosen.splitlines() if line.startswith("nnUNetv2_")]
    assert commands[-1].startswith("nnUNetv2_apply_postprocessing")
    for command in commands:
        here = command.replace("INPUT_FOLDER", prepared)
        here = re.sub(r"OUTPUT_FOLDER\w*", lambda match: str(tmp_path / match.group()), here)
        models.run(f"{here} {ON_CPU}" if here.startswith("nnUNetv2_predict") else here)
        assert "-np 8" not in shlex.split(here)
    segmentations(tmp_path / "OUTPUT_FOLDER_PP")
