import json

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.folder import find_model_folder, open_model_folder

NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def results(tmp_path, monkeypatch, files):
    """nnUNet_results with one model that has checkpoints in folds 0, 3 and all."""
    model = tmp_path / "Dataset990_Tiny" / NAME
    for fold in ("0", "3", "all"):
        (model / f"fold_{fold}").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_final.pth").touch()
    (model / "dataset.json").write_text(json.dumps(files.dataset_json(("T1", "FLAIR"))))
    (model / "plans.json").write_text(json.dumps(files.plans_json(("T1", "FLAIR"))))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


@pytest.fixture
def model(results):
    return open_model_folder(results / "Dataset990_Tiny" / NAME)


class TestFind:
    @pytest.mark.parametrize("dataset", ["990", "Dataset990_Tiny"])
    @pytest.mark.parametrize("configuration", ["3d_fullres", "*"])
    def test_by_id_and_by_name(self, results, dataset, configuration):
        found = find_model_folder(dataset, "nnUNetTrainer", "nnUNetPlans", configuration)
        assert found == results / "Dataset990_Tiny" / NAME

    def test_names_the_data_sets_there_are(self, results):
        with pytest.raises(MSTKDError, match=r"no model of data set '991'.*Dataset990_Tiny"):
            find_model_folder("991", "nnUNetTrainer", "nnUNetPlans", "3d_fullres")

    def test_names_the_models_there_are(self, results):
        with pytest.raises(MSTKDError, match=f"no model nnUNetTrainerMSTKD__.*{NAME}"):
            find_model_folder("990", "nnUNetTrainerMSTKD", "nnUNetMSTKDPlans", "3d_fullres")


class TestOpen:
    def test_modalities_are_canonical_and_in_channel_order(self, model):
        assert model.modalities == ("t1n", "t2f")
        assert model.file_ending == ".nii.gz"

    @pytest.mark.parametrize(
        ("file", "content", "says"),
        [
            ("dataset.json", None, "has no dataset.json"),
            ("plans.json", None, "has no plans.json"),
            ("plans.json", "{}", "no configurations"),
            ("plans.json", "{", "as JSON"),
            ("dataset.json", "[]", "not nnU-Net's dataset.json"),
            ("dataset.json", '{"labels": {}, "channel_names": {"0": "t1n"}}', "no 'file_ending'"),
            ("dataset.json", '{"labels": {}, "file_ending": ".nii.gz"}', "no channels"),
            ("dataset.json", '{"labels": {}, "file_ending": "", "modality": {"a": "b"}}', "channel_names"),
        ],
    )  # fmt: skip
    def test_refuses_what_is_not_nnunets(self, model, file, content, says):
        if content is None:
            (model.path / file).unlink()
        else:
            (model.path / file).write_text(content)
        with pytest.raises(MSTKDError, match=says):
            open_model_folder(model.path)


class TestFolds:
    def test_the_numbered_ones_unless_asked_otherwise(self, model):
        assert model.folds(None, "checkpoint_final.pth") == (0, 3)
        assert model.folds(["all"], "checkpoint_final.pth") == ("all",)

    def test_all_where_there_is_nothing_else(self, model):
        for fold in (0, 3):
            (model.path / f"fold_{fold}" / "checkpoint_final.pth").unlink()
        assert model.folds(None, "checkpoint_final.pth") == ("all",)

    @pytest.mark.parametrize(
        ("wanted", "name", "says"),
        [
            ([0, 1], "checkpoint_final.pth", "fold_1/checkpoint_final.pth"),
            (["all"], "checkpoint_best.pth", "fold_all/checkpoint_best.pth"),
            (None, "checkpoint_best.pth", "checkpoint_best.pth"),
        ],
    )
    def test_a_missing_checkpoint_is_an_error_that_lists_the_others(self, model, wanted, name, says):
        with pytest.raises(MSTKDError, match=rf"has no {says}; it has fold_0/checkpoint_final.pth, "):
            model.folds(wanted, name)
