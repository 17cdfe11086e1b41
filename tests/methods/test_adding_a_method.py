"""The recipe of CONTRIBUTING.md, followed in one temporary folder: its code blocks are the method."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_every_method as tester

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
