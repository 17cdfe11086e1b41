"""The predictor class on models of several kinds, in this process."""

import numpy as np
import pytest
import torch

from nnunetv2_mstkd.datasets.discovery import Case, discover
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.models.loading import checked_device

CT = ("CTNormalization", "RescaleTo01Normalization", "NoNormalization", "ZScoreNormalization")


def load(path, **options):
    return MissingModalityPredictor.load(open_model_folder(path), device="cpu", mirroring=False, **options)


@pytest.fixture(scope="module")
def regions_model(models):
    return load(models.regions)


@pytest.fixture(scope="module")
def cases(brats, models):
    found = discover(brats, open_model_folder(models.labels).modalities)
    return {case.name.split("-")[2]: case for case in found.cases}


class TestLoad:
    def test_knows_whether_the_trainer_masked_modalities(self, models, regions_model):
        assert regions_model.handles_missing
        assert not load(models.labels).handles_missing

    def test_averages_the_folds(self, models, regions_model, cases):
        prepared = regions_model.preprocess(regions_model.read(cases["00001"]))
        single = [load(models.regions, folds=[f]).logits(prepared).logits for f in (0, 1)]
        both = regions_model.logits(prepared).logits
        assert not np.allclose(single[0], single[1])
        np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=2e-3)

    def test_unknown_device(self):
        with pytest.raises(MSTKDError, match="unknown device 'tpu'; use one of cpu, cuda, mps"):
            checked_device("tpu")

    def test_cuda_without_a_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(MSTKDError, match="'cuda' is not available here; use -device cpu"):
            checked_device("cuda")

    def test_a_device_may_be_torchs_own_and_have_a_number(self, monkeypatch):
        assert checked_device(torch.device("cpu")) == torch.device("cpu")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert checked_device("cuda:1") == torch.device("cuda", 1)
        with pytest.raises(MSTKDError, match="'cuda:2' is not there: this process sees 2 of the kind"):
            checked_device(torch.device("cuda", 2))


class TestPredict:
    def test_result_is_on_the_grid_of_the_input_and_says_what_was_used(self, regions_model, cases, files):
        result = regions_model.predict(cases["00002"], probabilities=True)
        assert result.array.shape == files.shape
        assert set(np.unique(result.array)) <= {0, 1, 2, 3}
        assert result.probabilities.shape == (3, *files.shape)
        assert result.use.used == ("t1c", "t2f")
        assert result.use.absent == ("t1n", "t2w")

    def test_a_modality_that_is_not_asked_for_changes_nothing(self, regions_model, cases):
        case = cases["00001"]
        some = Case(case.name, {name: case.images[name] for name in ("t1c", "t2f")})
        asked = regions_model.predict(case, ["t1c", "t2f"])
        np.testing.assert_array_equal(asked.array, regions_model.predict(some).array)
        assert asked.use.ignored == ("t1n", "t2w")
        assert (asked.array != regions_model.predict(case).array).any()

    def test_one_case_does_not_influence_the_next(self, regions_model, cases):
        alone = regions_model.predict(cases["00002"]).array
        regions_model.predict(cases["00001"])
        np.testing.assert_array_equal(regions_model.predict(cases["00002"]).array, alone)


class TestAbsentIsZero:
    @pytest.fixture(scope="class")
    def ct_model(self, tmp_path_factory, files):
        folder = tmp_path_factory.mktemp("ct") / "model"
        return load(files.write_model(folder, files.dataset_json(), files.plans_json(normalization=CT)))

    @pytest.mark.parametrize("absent", ["t1n", "t1c", "t2w", "t2f"])
    def test_after_any_normalisation(self, ct_model, cases, absent):
        wanted = set(ct_model.modalities) - {absent}
        data = ct_model.preprocess(ct_model.read(cases["00001"], wanted)).data
        for channel, name in enumerate(ct_model.modalities):
            assert bool(data[channel].any()) == (name != absent), name

    def test_ct_normalisation_alone_would_not_have_done_it(self, ct_model, cases):
        volumes = ct_model.read(cases["00001"], {"t1c", "t2w", "t2f"})
        nnunet = ct_model.predictor
        raw, _, _ = nnunet.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
            volumes.data, None, volumes.properties, nnunet.plans_manager,
            nnunet.configuration_manager, nnunet.dataset_json,
        )  # fmt: skip
        assert raw[0].any()


def test_a_constant_volume_counts_as_absent(regions_model, cases, files, tmp_path):
    case = cases["00001"]
    flat = files.write_volume(tmp_path / "flat.nii.gz", np.full(files.shape, 0.1, dtype=np.float32))
    with_flat = regions_model.predict(Case("x", {**case.images, "t2w": flat}))
    without = regions_model.predict(Case("x", {n: p for n, p in case.images.items() if n != "t2w"}))
    assert with_flat.use.constant == ("t2w",)
    assert with_flat.use.used == without.use.used == ("t1n", "t1c", "t2f")
    np.testing.assert_array_equal(with_flat.array, without.array)


class TestCascade:
    @pytest.fixture
    def cascade(self, tmp_path, files):
        plans = files.plans_json(cascade=True)
        return load(files.write_model(tmp_path / "model", files.dataset_json(), plans))

    def test_one_hot_channels_follow_and_are_not_masked(self, cascade, cases, files, tmp_path):
        previous = np.zeros(files.shape, dtype=np.uint8)
        previous[8:18, 8:18, 8:18] = 2
        previous[10:12, 10:12, 10:12] = 3
        path = files.write_volume(tmp_path / "previous.nii.gz", previous)
        prepared = cascade.preprocess(cascade.read(cases["00002"], previous_stage=path))
        assert prepared.data.shape[0] == 4 + 3
        assert [bool(channel.any()) for channel in prepared.data] == [
            False, True, False, True,  # t1c and t2f
            False, True, True,  # labels 2 and 3
        ]  # fmt: skip
        assert set(np.unique(prepared.data[4:])) == {0, 1}
        result = cascade.segmentation(cascade.logits(prepared))
        assert result.array.shape == files.shape

    def test_a_previous_segmentation_on_another_grid_is_refused(self, cascade, cases, files, tmp_path):
        path = files.write_volume(tmp_path / "previous.nii.gz", np.zeros((26, 30, 27), dtype=np.uint8))
        with pytest.raises(MSTKDError, match=r"previous\.nii\.gz differ in size"):
            cascade.read(cases["00002"], previous_stage=path)

    def test_a_missing_one_is_refused(self, cascade, cases, tmp_path):
        with pytest.raises(MSTKDError, match="no segmentation of the previous stage"):
            cascade.read(cases["00002"], previous_stage=tmp_path / "none.nii.gz")

    def test_all_steps_in_one_is_refused(self, cascade, cases):
        with pytest.raises(MSTKDError, match="refines segmentations of 3d_lowres"):
            cascade.predict(cases["00001"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trainer_name": "nnUNetTrainerFromMars"}, "nnUNetTrainerFromMars"),
        ({"init_args": {"configuration": "2d"}}, "2d"),
    ],
)
def test_an_unfit_model_folder_is_named_in_one_line(tmp_path, files, change, says):
    """The other ways to be unfit are rows of the table of bad inputs."""
    model = files.write_model(tmp_path / "model", files.dataset_json(), files.plans_json())
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(checkpoint) | change, checkpoint)
    with pytest.raises(MSTKDError) as caught:
        load(model)
    assert says in str(caught.value)
    assert str(model) in str(caught.value)
    assert "\n" not in str(caught.value)
