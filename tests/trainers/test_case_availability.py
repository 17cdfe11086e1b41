"""What a trainer knows of its cases, from the stored file and from preprocessed volumes."""

import json
from collections import Counter

import numpy as np
import pytest
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.stats import chisquare
from tiny_dataset import CASES, DATASET, MODALITIES, dataset_json, plans, write_case, write_dataset

from nnunetv2_mstkd.datasets import preprocessed_availability as module
from nnunetv2_mstkd.datasets.availability import FILE_NAME, Availability, Entry, load_availability
from nnunetv2_mstkd.datasets.raw_images import digest
from nnunetv2_mstkd.datasets.volumes import is_constant
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.trainers.data_loader import MaskedPatchLoader
from nnunetv2_mstkd.transforms import ModalityMaskingTransform

FOLDER = "nnUNetPlans_3d"
FOUND = {"case_0": ("t1c", "t2f"), "case_3": ("t1n",)}


@pytest.fixture
def nnunet_folders(tmp_path):
    """The tiny data set with constant placeholders, not all of them zero, and no record of them."""
    (tmp_path / "nnunet").mkdir()
    root = write_dataset(tmp_path / "nnunet")
    folder = root / "preprocessed" / DATASET / FOLDER
    write_case(folder, "case_0", 4, seed=0, constants={1: 0.0, 3: -3.7})
    write_case(folder, "case_3", 4, seed=3, constants={0: 1.0})
    return root


@pytest.fixture
def base(nnunet_folders):
    return nnunet_folders / "preprocessed" / DATASET


@pytest.fixture
def read(monkeypatch):
    """The cases whose volumes are read."""
    cases = []
    original = module._constant_channels

    def spy(dataset, case, modalities):
        cases.append(case)
        return original(dataset, case, modalities)

    monkeypatch.setattr(module, "_constant_channels", spy)
    return cases


@pytest.fixture
def trainer(make_trainer):
    return new_trainer(make_trainer)


def new_trainer(make_trainer, **options):
    made = make_trainer(nnUNetTrainerModalityDropout, **options)
    made.initialize()
    return made


def log_of(trainer) -> str:
    with open(trainer.log_file) as file:
        return file.read()


class TestWithoutAStoredFile:
    def test_the_preprocessed_volumes_tell_and_the_answer_is_stored(self, trainer, base, read, make_trainer):
        availability = trainer.case_availability(CASES)
        assert availability.incomplete == FOUND
        assert sorted(read) == list(CASES)
        assert f"{FILE_NAME} does not say what 4 cases have" in log_of(trainer)
        stored = load_availability(base, MODALITIES)
        assert stored == availability
        assert stored.entries["case_0"].source == FOLDER
        assert new_trainer(make_trainer).case_availability(CASES) == availability
        assert len(read) == 4, "the second training must not read again"

    def test_cases_of_another_fold_are_added_to_the_file(self, trainer, base):
        trainer.case_availability(CASES[:2])
        trainer.case_availability(CASES[2:])
        assert set(load_availability(base, MODALITIES).entries) == set(CASES)

    def test_batches_are_zero_where_the_case_has_nothing(self, trainer):
        generator, validation = trainer.get_dataloaders()
        for source, keys in ((generator, {"case_0", "case_1", "case_2"}), (validation, {"case_3"})):
            seen = set()
            for _ in range(6):
                batch = next(source)
                for key, data, available in zip(
                    batch["keys"], batch["data"], batch["modality_available"], strict=True
                ):
                    assert available.tolist() == [m not in FOUND.get(key, ()) for m in MODALITIES]
                    assert not data[~available].any()
                    assert (data[available].abs().amax(dim=(1, 2, 3)) > 0).all()
                    seen.add(key)
            assert seen == keys

    def test_the_log_says_how_many_cases_lack_what(self, trainer):
        trainer.get_dataloaders()
        log = log_of(trainer)
        assert "Training cases: 1 of 3 cases lack modalities:" in log
        assert "      1  t1n+t2w" in [line.rstrip() for line in log.splitlines()]
        assert "Validation cases: 1 of 1 cases lack modalities:" in log
        assert "warning: none of these cases has t1n" in log

    def test_only_rank_0_writes_and_no_rank_waits_for_it(self, trainer, base):
        trainer.local_rank = 1
        assert trainer.case_availability(CASES).incomplete == FOUND
        assert not (base / FILE_NAME).exists()

    def test_a_folder_that_cannot_be_written_stops_no_training(self, trainer, base):
        (base / FILE_NAME).mkdir()
        assert trainer.case_availability(CASES).incomplete == FOUND
        assert "could not be written" in log_of(trainer)


class TestWithAStoredFile:
    def test_it_is_believed(self, trainer, base, read):
        Availability(MODALITIES, {case: Entry(("t2w",), "raw", "x") for case in CASES}).write(base)
        assert set(trainer.case_availability(CASES).incomplete.values()) == {("t2w",)}
        assert read == []

    def test_a_volume_that_changed_since_is_read_again(self, trainer, base, read):
        trainer.case_availability(CASES)
        write_case(base / FOLDER, "case_1", 4, seed=1, constants={2: 0.0})
        assert trainer.case_availability(CASES).incomplete == {**FOUND, "case_1": ("t2w",)}
        assert read[4:] == ["case_1"]

    def test_raw_images_that_changed_since_void_what_was_read_of_them(
        self, trainer, base, read, nnunet_folders
    ):
        images = nnunet_folders / "raw" / DATASET / "imagesTr"
        images.mkdir(parents=True)
        files = {case: [images / f"{case}_{i:04d}.nii.gz" for i in range(4)] for case in CASES}
        for file in (f for case in CASES for f in files[case]):
            file.write_bytes(b"as it was")
        Availability(MODALITIES, {c: Entry((), "raw", digest(files[c])) for c in CASES}).write(base)
        assert not trainer.case_availability(CASES).incomplete
        files["case_0"][2].write_bytes(b"as it is now")
        assert trainer.case_availability(CASES).incomplete == {"case_0": FOUND["case_0"]}
        assert read == ["case_0"]

    def test_the_converters_record_wins_and_a_contradiction_is_said(self, make_trainer, base, read):
        Availability(MODALITIES, {case: Entry((), "raw", "x") for case in CASES}).write(base)
        record = {"patients": dict.fromkeys(CASES, "p"), "incomplete_cases": {"case_2": ["FLAIR"]}}
        trainer = new_trainer(make_trainer, extra={"mstkd": record})
        assert trainer.case_availability(CASES).incomplete == {"case_2": ("t2f",)}
        assert "contradicts the converter's record in dataset.json for 1 cases (case_2)" in log_of(trainer)
        assert read == []
        assert load_availability(base, MODALITIES).entries["case_2"] == Entry(("t2f",), "record")

    def test_a_record_that_is_gone_is_not_believed(self, trainer, base):
        Availability(MODALITIES, {case: Entry(("t2w",), "record") for case in CASES}).write(base)
        assert trainer.case_availability(CASES).incomplete == FOUND


class TestRefusals:
    def test_a_case_without_any_modality(self, trainer, base):
        write_case(base / FOLDER, "case_1", 4, seed=1, constants=dict.fromkeys(range(4), 0.0))
        with pytest.raises(MSTKDError, match=r"no modality at all in 1 of 4 cases.*: case_1;"):
            trainer.get_dataloaders()
        assert not (base / FILE_NAME).exists()

    def test_a_case_that_is_not_preprocessed(self, trainer, base):
        (base / "splits_final.json").write_text(
            json.dumps([{"train": ["case_0", "case_7"], "val": ["case_1"]}])
        )
        with pytest.raises(MSTKDError, match="case case_7 of the split is not preprocessed"):
            trainer.get_dataloaders()

    def test_volumes_of_another_number_of_channels(self, trainer, base):
        write_case(base / FOLDER, "case_1", 3, seed=1)
        with pytest.raises(MSTKDError, match=r"case case_1 has 3 channels .* names 4 \(t1n"):
            trainer.get_dataloaders()


def test_the_final_validation_reads_absent_channels_as_zero(trainer):
    original = trainer.dataset_class
    with trainer._absent_channels_at_zero():
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, ["case_3"])
        data, seg, _, properties = dataset.load_case("case_3")
        assert not data[:][0].any()
        assert all(data[:][channel].any() for channel in (1, 2, 3))
        assert seg[:].any()
        assert "class_locations" in properties
    assert trainer.dataset_class is original
    data, *_ = original(trainer.preprocessed_dataset_folder, ["case_3"]).load_case("case_3")
    assert (data[:][0] == 1).all(), "the data on the disk must not change"


def test_subsets_are_uniform_over_what_each_case_has(trainer):
    """Through nnU-Net's loader, case by case; crops only, no other augmentation."""
    known = trainer.case_availability(CASES)
    train_set, _ = trainer.get_tr_and_val_datasets()
    masking = ModalityMaskingTransform(MODALITIES, trainer.subset_sampler())
    loader = MaskedPatchLoader(
        train_set,
        2,
        (8, 8, 8),
        (8, 8, 8),
        trainer.label_manager,
        transforms=ComposeTransforms([masking]),
        available={case: known.flags(case) for case in CASES},
    )
    np.random.seed(11)
    counts = {case: Counter() for case in CASES[:3]}
    for _ in range(600):
        batch = next(loader)
        for key, mask in zip(batch["keys"], batch["modality_mask"].bool().tolist(), strict=True):
            counts[key][tuple(mask)] += 1
    for case, seen in counts.items():
        possible = 2 ** sum(known.flags(case)) - 1
        assert len(seen) == possible, f"{case} must show every subset of what it has, and no other"
        assert chisquare(list(seen.values())).pvalue > 1e-3


_SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
_RESAMPLING = {
    "spline": (
        "resample_data_or_seg_to_shape",
        {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    ),
    "slices apart": (
        "resample_data_or_seg_to_shape",
        {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": True},
    ),
    "torch": (
        "resample_torch_fornnunet",
        {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False},
    ),
}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("resampling", _RESAMPLING)
@pytest.mark.parametrize("scheme", _SCHEMES)
def test_constant_volumes_stay_constant_in_nnunets_preprocessing(scheme, resampling, masked):
    """The premise of reading preprocessed volumes, held against nnU-Net's own preprocessor."""
    content = plans()
    configuration = content["configurations"]["tiny"]
    function, kwargs = _RESAMPLING[resampling]
    configuration["normalization_schemes"] = [scheme] * 4
    configuration["use_mask_for_norm"] = [masked] * 4
    configuration["resampling_fn_data"], configuration["resampling_fn_data_kwargs"] = function, kwargs
    statistics = {"mean": 71.3, "std": 13.7, "percentile_00_5": 1.0, "percentile_99_5": 180.0}
    content["foreground_intensity_properties_per_channel"] = {str(i): statistics for i in range(4)}
    manager = PlansManager(content)
    rng = np.random.default_rng(0)
    image = np.zeros((20, 22, 24), np.float32)
    image[3:17, 4:18, 5:21] = rng.uniform(1, 200, size=(14, 14, 16))
    seg = np.zeros((1, *image.shape), np.int8)
    seg[0, 8:12, 8:12, 8:12] = 1
    for value in (0.0, 100.1, 255.0, 0.3):
        data = np.stack([image, np.full_like(image, value), image[::-1], image])
        properties = {"spacing": [0.83, 1.27, 0.71]}
        done, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(
            data, seg, properties, manager, manager.get_configuration("tiny"), dataset_json()
        )
        constant = [bool(is_constant(channel)) for channel in np.asarray(done)]
        assert constant == [False, True, False, False], f"placeholder {value}"
