"""Models from elsewhere: loaded without running code, into the same predictor as nnU-Net fills."""

from __future__ import annotations

import pytest
import torch
from malicious import MakesFolder
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mstkd import segment
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models import building
from nnunetv2_mstkd.models.building import trainer_class
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.models.loading import load_nnunet_predictor, trained_for_missing

CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture
def spoiled(tmp_path, files):
    """A model whose checkpoint also holds something that makes a folder when it is read.

    That predict refuses it otherwise is a row of the table of bad inputs.
    """
    model = files.write_model(tmp_path / "model", files.dataset_json(), files.plans_json())
    content = torch.load(model / CHECKPOINT)
    torch.save(content | {"mstkd": MakesFolder(tmp_path / "victim")}, model / CHECKPOINT)
    return model


def test_predict_reads_it_when_told_to(predict, brats, spoiled, tmp_path):
    done = predict(brats, tmp_path / "out", "--trust_checkpoint", model=spoiled)
    assert done.code == 0
    assert (tmp_path / "victim").is_dir(), "the file was not malicious: the refusal proves nothing"


def test_segment_reads_it_when_told_to(brats, spoiled, tmp_path):
    (t1c,) = brats.glob("BraTS-GLI-00001-000/*-t1c.nii.gz")
    options = {"t1c": t1c, "model": spoiled, "device": "cpu", "mirroring": False, "step_size": 1.0}
    with pytest.raises(MSTKDError, match=r"holds posix\.mkdir.*trust_checkpoint=True"):
        segment(**options)
    assert not (tmp_path / "victim").exists()
    segment(**options, trust_checkpoint=True)
    assert (tmp_path / "victim").is_dir()


@pytest.mark.parametrize("name", ["nnUNetTrainerModalityDropout", "nnUNetTrainerFullModality"])
def test_a_training_does_not_continue_from_such_a_file(make_trainer, spoiled, tmp_path, name):
    from nnunetv2_mstkd import methods

    trainer = make_trainer(getattr(methods, name))
    with pytest.raises(MSTKDError, match=r"holds posix\.mkdir.*nnUNet_mstkd_trust_checkpoint=1"):
        trainer.load_checkpoint(str(spoiled / CHECKPOINT))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["labels", "regions"])
def test_the_predictor_is_the_one_that_nnunet_fills(models, name):
    model = open_model_folder(getattr(models, name))
    folds = model.folds(None, "checkpoint_final.pth")
    ours = load_nnunet_predictor(model, folds, "checkpoint_final.pth", device="cpu")
    theirs = nnUNetPredictor(device=torch.device("cpu"))
    theirs.initialize_from_trained_model_folder(str(model.path), folds)
    assert set(vars(ours)) == set(vars(theirs)), "this nnU-Net fills in more than we do"
    for attribute in ("trainer_name", "allowed_mirroring_axes", "dataset_json"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.plans_manager.plans == theirs.plans_manager.plans
    assert ours.configuration_manager.configuration == theirs.configuration_manager.configuration
    heads = ours.label_manager.num_segmentation_heads
    assert heads == theirs.label_manager.num_segmentation_heads
    assert str(ours.network) == str(theirs.network)
    assert len(ours.list_of_parameters) == len(folds)
    for mine, stock in zip(ours.list_of_parameters, theirs.list_of_parameters, strict=True):
        assert mine.keys() == stock.keys()
        assert all(torch.equal(mine[key], stock[key]) for key in mine)


def test_trainers_with_the_older_signature_are_built(models, monkeypatch):
    """nnU-Net before 2.8: the architecture's three parts instead of the plans."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    def build(
        architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import,
        num_input_channels, num_output_channels, enable_deep_supervision=True,
    ):  # fmt: skip
        architecture = (architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import)
        channels = (num_input_channels, num_output_channels)
        return get_network_from_plans(*architecture, *channels, deep_supervision=enable_deep_supervision)

    monkeypatch.setattr(nnUNetTrainer, "build_network_architecture", staticmethod(build))
    predictor = load_nnunet_predictor(
        open_model_folder(models.labels), (0,), "checkpoint_final.pth", device="cpu"
    )
    assert not predictor.network.decoder.deep_supervision


class TestTrainerClass:
    @pytest.fixture
    def search(self, monkeypatch):
        """nnU-Net's search, which imports all of its trainers and timm, replaced: what was searched for."""
        searched = []

        def find(name):
            searched.append(name)
            return nnUNetTrainer

        monkeypatch.setattr(building, "recursive_find_trainer_class_by_name", find)
        return searched

    def test_of_this_plugin_is_found_without_the_search(self, models, search, monkeypatch):
        monkeypatch.setenv("nnUNet_extTrainer", "")
        predictor = load_nnunet_predictor(
            open_model_folder(models.regions), (0,), "checkpoint_final.pth", device="cpu"
        )
        assert trained_for_missing(predictor)
        assert trainer_class("nnUNetTrainerModalityDropout").handles_missing_modalities
        assert search == []

    def test_of_nnunet_is_searched_for(self, search, monkeypatch):
        monkeypatch.setenv("nnUNet_extTrainer", "")
        trainer_class("nnUNetTrainer")
        trainer_class("nnUNetTrainer_100epochs")
        assert search == ["nnUNetTrainer", "nnUNetTrainer_100epochs"]

    def test_a_folder_of_the_users_comes_first(self, search, monkeypatch, tmp_path):
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
        assert trainer_class("nnUNetTrainerModalityDropout") is nnUNetTrainer
        assert search == ["nnUNetTrainerModalityDropout"]
