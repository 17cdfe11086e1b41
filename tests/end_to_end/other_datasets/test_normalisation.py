"""Absent means zero after normalisation, in training and inference alike, whatever the normalisation.

The measure is nnU-Net's own preprocessing of the same case with an all-zero file for what is absent.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_dataset
import torch

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.discovery import Case
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.modalities import all_subsets
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.transforms import mask_modalities

# Channel names that choose nnU-Net's normalisation, and what they choose.
CHANNELS = {
    "CT": "CTNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "noNorm": "NoNormalization",
    "ADC": "ZScoreNormalization",
}
NAMES = tuple(CHANNELS)
SHAPE = (24, 28, 26)
SUBSETS = [tuple(n for n in NAMES if n in subset) for subset in all_subsets(NAMES) if len(subset) < 4]


def volume(name: str, *, filled: bool = False) -> np.ndarray:
    """Zero around the inside, or in all of the grid something; CT has air of -1000 around."""
    rng = np.random.default_rng(NAMES.index(name))
    array = np.zeros(SHAPE, dtype=np.float32)
    inside = (slice(None),) * 3 if filled else (slice(3, -3),) * 3
    array[inside] = rng.uniform(20, 180, size=array[inside].shape)
    if name == "CT":
        array[array == 0] = -1000
    return array


def save(array: np.ndarray, path: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.1, 0.9))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def predictor(files, tmp_path_factory):
    plans = files.plans_json(NAMES, normalization=list(CHANNELS.values()))
    model = tmp_path_factory.mktemp("model") / "model"
    files.write_model(model, files.dataset_json(NAMES), plans)
    return MissingModalityPredictor.load(open_model_folder(model), device="cpu", mirroring=False)


@pytest.fixture(scope="module", params=[False, True], ids=["zero around", "filled"])
def images(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return {n: save(volume(n, filled=request.param), folder / f"case-{n}.nii.gz") for n in NAMES}


def nnunets_own(predictor, files) -> np.ndarray:
    """nnU-Net's preprocessing of files, one per channel."""
    nnunet = predictor.predictor
    preprocessor = nnunet.configuration_manager.preprocessor_class(verbose=False)
    return preprocessor.run_case(
        [str(path) for path in files],
        None,
        nnunet.plans_manager,
        nnunet.configuration_manager,
        nnunet.dataset_json,
    )[0]


def with_zero_files(images, subset, folder):
    zero = save(np.zeros(SHAPE, dtype=np.float32), folder / "zero.nii.gz")
    return [images[name] if name in subset else zero for name in NAMES]


def ours(predictor, images) -> np.ndarray:
    return predictor.preprocess(predictor.read(Case("case", images))).data.numpy()


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_inference(predictor, images, subset, tmp_path):
    reference = nnunets_own(predictor, with_zero_files(images, subset, tmp_path))
    data = ours(predictor, {name: images[name] for name in subset})
    assert data.shape == reference.shape
    for channel, name in enumerate(NAMES):
        if name in subset:
            np.testing.assert_array_equal(data[channel], reference[channel])
            assert data[channel].any()
        else:
            assert not data[channel].any()
            # What nnU-Net alone would have shown the network: zero, but for CT, where 0 HU is no zero.
            expected = (0 - 40.0) / 20.0 if name == "CT" else 0
            np.testing.assert_allclose(reference[channel], expected, atol=1e-5)


@pytest.mark.parametrize("value", [-1000, 5, 1e-3])
def test_a_placeholder_that_is_not_zero_does_not_reach_the_crop(predictor, images, tmp_path, value):
    placeholder = save(np.full(SHAPE, value, dtype=np.float32), tmp_path / "placeholder.nii.gz")
    data = ours(predictor, {**images, "CT": placeholder, "noNorm": placeholder})
    without = {name: images[name] for name in ("rescale_to_0_1", "ADC")}
    np.testing.assert_array_equal(data, ours(predictor, without))
    by_nnunet = nnunets_own(predictor, [placeholder, images["rescale_to_0_1"], placeholder, images["ADC"]])
    crops = (by_nnunet.shape[1:], data.shape[1:])
    filled = bool(sitk.GetArrayFromImage(sitk.ReadImage(str(images["ADC"]))).all())
    assert (crops[0] == crops[1]) == filled, "nnU-Net alone would have cropped to the placeholder"


class TestPrepare:
    """Placeholders for plain nnUNetv2_predict: it sees what predict shows the network, or it is refused."""

    @pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
    def test_stock_preprocessing_sees_what_predict_sees(self, predictor, images, subset, tmp_path, capsys):
        for name in subset:
            save(
                sitk.GetArrayFromImage(sitk.ReadImage(str(images[name]))), tmp_path / f"in/x/x-{name}.nii.gz"
            )
        flags = ["-m", str(predictor.model.path), "--disable_progress_bar"]
        code = main(["prepare", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "flat"), *flags])
        filled = bool(sitk.GetArrayFromImage(sitk.ReadImage(str(images["ADC"]))).all())
        if "CT" not in subset and not filled:
            lines = capsys.readouterr().err.splitlines()
            assert (code, len(lines)) == (2, 1)
            assert (
                "a placeholder for CT cannot be zero, and another one would change nnU-Net's crop" in lines[0]
            )
            assert list((tmp_path / "flat").iterdir()) == []
            return
        assert code == 0
        prepared = [tmp_path / "flat" / f"x_{channel:04d}.nii.gz" for channel in range(4)]
        seen = nnunets_own(predictor, prepared)
        np.testing.assert_array_equal(seen, ours(predictor, {name: images[name] for name in subset}))

    def test_without_statistics_a_ct_is_refused_and_the_others_are_not(self, files, images, tmp_path, capsys):
        (tmp_path / "dataset.json").write_text(json.dumps(files.dataset_json(NAMES)))
        save(volume("ADC"), tmp_path / "in" / "x" / "x-ADC.nii.gz")
        command = ["prepare", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "flat")]
        assert main([*command, "--dataset_json", str(tmp_path / "dataset.json")]) == 2
        assert "no placeholder for CT is known to become zero" in capsys.readouterr().err
        save(volume("CT"), tmp_path / "in" / "x" / "x-CT.nii.gz")
        assert main([*command, "--dataset_json", str(tmp_path / "dataset.json")]) == 0


ABSENT = {
    "case_0": ("CT",),
    "case_1": ("rescale_to_0_1", "noNorm"),
    "case_2": ("ADC",),
    "case_3": ("CT", "noNorm"),
}


@pytest.fixture
def trainer(files, predictor, tmp_path, monkeypatch):
    """A trainer on cases that nnU-Net's preprocessing made from raw files with all-zero placeholders."""
    torch.set_num_threads(1)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    base = tmp_path / "preprocessed" / tiny_dataset.DATASET
    (base / "nnUNetPlans_3d").mkdir(parents=True)
    plans = tiny_dataset.plans(NAMES, patch=(28, 32, 32), settings={"seed": 1})
    plans["configurations"]["tiny"]["normalization_schemes"] = list(CHANNELS.values())
    plans["configurations"]["tiny"]["use_mask_for_norm"] = [False, False, False, True]
    plans["foreground_intensity_properties_per_channel"] = predictor.model.plans[
        "foreground_intensity_properties_per_channel"
    ]
    dataset = tiny_dataset.dataset_json(NAMES, regions=False)
    segmentation = np.zeros(SHAPE, dtype=np.uint8)
    segmentation[8:14, 8:14, 8:14] = np.arange(1, 4).repeat(2)[:, None, None]
    reference = save(segmentation, tmp_path / "segmentation.nii.gz")
    nnunet = nnUNetTrainerModalityDropout(
        plans | {"continue_training": False}, "tiny", 0, dataset, torch.device("cpu")
    )
    preprocessor = nnunet.configuration_manager.preprocessor_class(verbose=False)
    for case, absent in ABSENT.items():
        present = {n: save(volume(n), tmp_path / case / f"{n}.nii.gz") for n in NAMES if n not in absent}
        raw = [str(path) for path in with_zero_files(present, present.keys(), tmp_path)]
        target = str(base / "nnUNetPlans_3d" / case)
        preprocessor.run_case_save(
            target, raw, str(reference), nnunet.plans_manager, nnunet.configuration_manager, dataset
        )
    cases = list(ABSENT)
    (base / "splits_final.json").write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
    (base / "dataset_fingerprint.json").write_text("{}")
    nnunet.initialize()
    return nnunet


class TestTraining:
    def test_absent_is_zero_and_present_is_bit_equal_to_nnunets_own(self, trainer, predictor, tmp_path):
        """The validation loader does not augment, and a patch holds a whole case: every voxel is compared."""
        _, validation = trainer.get_dataloaders()
        batch = next(validation)
        absent = ABSENT[batch["keys"][0]]
        cases = trainer.dataset_class(str(trainer.preprocessed_dataset_folder))
        stored = cases.load_case(batch["keys"][0])[0][:]
        assert stored[NAMES.index("CT")].any(), "nnU-Net's CT normalisation made something of zeros"
        patch = batch["data"][0].numpy()
        offset = [(p - s) // 2 for p, s in zip(patch.shape[1:], stored.shape[1:], strict=True)]
        inside = (slice(None), *(slice(o, o + s) for o, s in zip(offset, stored.shape[1:], strict=True)))
        present = {n: tmp_path / "case_3" / f"{n}.nii.gz" for n in NAMES if n not in absent}
        for channel, name in enumerate(NAMES):
            if name in absent:
                assert not patch[channel].any()
            else:
                np.testing.assert_array_equal(patch[inside][channel], stored[channel])
        np.testing.assert_array_equal(patch[inside], ours_with_training_plans(trainer, predictor, present))

    def test_after_augmentation_and_for_the_student(self, trainer):
        training, _ = trainer.get_dataloaders()
        seen = set()
        for _ in range(8):
            batch = next(training)
            student = mask_modalities(batch["data"], batch["modality_mask"])
            for key, whole, shown, mask in zip(
                batch["keys"], batch["data"], student, batch["modality_mask"], strict=True
            ):
                for channel, name in enumerate(NAMES):
                    assert bool(whole[channel].any()) == (name not in ABSENT[key]), (key, name)
                    expected = whole[channel] if mask[channel] else torch.zeros_like(whole[channel])
                    assert torch.equal(shown[channel], expected)
                seen.add(key)
        assert seen == {"case_0", "case_1", "case_2"}


def ours_with_training_plans(trainer, predictor, images) -> np.ndarray:
    """What prediction would show a network of this training of the same incomplete case."""
    nnunet = SimpleNamespace(
        configuration_manager=trainer.configuration_manager,
        plans_manager=trainer.plans_manager,
        dataset_json=trainer.dataset_json,
        label_manager=trainer.label_manager,
        verbose_preprocessing=False,
    )
    return ours(MissingModalityPredictor(nnunet, predictor.model, handles_missing=True), images)
