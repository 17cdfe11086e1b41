"""The recipe of CONTRIBUTING.md, followed in one temporary folder: its code blocks are the method."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_every_method as tester
from tiny_dataset import DATASET, dataset_json, plans

from nnunetv2_mstkd.files import write_json
from nnunetv2_mstkd.models.building import trainer_class

NAME = "nnUNetTrainerMeanFusion"
RECIPE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The parent of ``meanfusion/``, with a file for each code block that names one."""
    parent = tmp_path_factory.mktemp("own_methods")
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["network.py", "trainer.py"]
    (parent / "meanfusion").mkdir()
    (parent / "meanfusion" / "__init__.py").touch()
    for name, code in blocks:
        (parent / "meanfusion" / name).write_text(code)
    return parent


@pytest.fixture
def method(folder, monkeypatch):
    """The tester's list with this method in it."""
    monkeypatch.syspath_prepend(folder)
    trainer = getattr(import_module("meanfusion.trainer"), NAME)
    monkeypatch.setitem(tester.TRAINERS, NAME, SimpleNamespace(trainer=NAME, load=lambda: trainer))
    return trainer


def test_nnunet_finds_it_beside_the_trainers_of_the_house(folder, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert trainer_class(NAME).__name__ == NAME
    assert trainer_class("nnUNetTrainerModalityDropout").__module__ == "nnunetv2_mstkd.methods.baselines"


@pytest.mark.parametrize("patch", [(16, 16, 16), (21, 19)], ids=str)
def test_its_network_does_what_networks_have_to_do(method, patch):
    tester.test_takes_any_patch_in_2d_and_3d(NAME, patch)
    tester.test_takes_any_number_of_modalities_and_labels(NAME, 7)
    tester.test_a_batch_of_different_subsets_gives_what_its_samples_give(NAME)


def test_it_masks_weighs_and_refuses_as_every_trainer(method, make_trainer):
    tester.test_what_is_masked_has_no_influence_on_the_segmentation(make_trainer, NAME, True)
    tester.test_a_loss_that_the_trainer_does_not_have_is_refused(make_trainer, NAME)
    tester.test_a_setting_that_the_trainer_does_not_read_is_refused(make_trainer, NAME)
    tester.test_a_cascade_is_refused_where_every_channel_is_a_modality(make_trainer, NAME)


@pytest.mark.slow
def test_it_stops_goes_on_and_predicts(method, make_trainer, monkeypatch, folder):
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    tester.test_three_epochs_stopped_and_continued_then_stock_nnunet_predicts(make_trainer, monkeypatch, NAME)


@pytest.mark.slow
def test_nnunets_own_command_trains_it(folder, nnunet_folders, tmp_path):
    settings = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
    base = nnunet_folders / "preprocessed" / DATASET
    write_json(plans(settings=settings) | {"plans_name": "nnUNetOwnPlans"}, base / "nnUNetOwnPlans.json")
    write_json(dataset_json(), base / "dataset.json")
    environment = {f"nnUNet_{name}": str(nnunet_folders / name) for name in ("raw", "preprocessed")}
    environment |= {"nnUNet_results": str(tmp_path), "nnUNet_n_proc_DA": "0", "nnUNet_extTrainer": str(folder)}
    command = f"nnUNetv2_train 990 tiny 0 -tr {NAME} -p nnUNetOwnPlans -device cpu".split()
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / command[0], *command[1:]],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    for name in ("nnUNetOwnPlans.json", "dataset.json"):
        (base / name).unlink()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list(tmp_path.glob(f"{DATASET}/{NAME}__nnUNetOwnPlans__tiny/fold_0/checkpoint_final.pth"))
