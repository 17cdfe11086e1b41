"""A tiny trained-looking model and small cases: real commands in seconds, nothing trained.

The fixtures are for the folders whose conftest.py imports them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from benchmarks.plans import unet

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
SHAPE = (26, 30, 28)  # z, y, x
GEOMETRY = {  # nothing about it is a default; the grid is resampled to the plans' 1 mm
    "spacing": (0.9, 1.0, 1.2),
    "origin": (-7.5, 3.25, 11.0),
    "direction": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
}
LABELS = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
# What predict writes beside the segmentations of any model.
BESIDE = frozenset(
    {"modalities.json", "dataset.json", "plans.json", "statistics.csv", "statistics.json", "report.txt"}
)
ARCHITECTURE = unet([4, 8, 8], convolutions=1)


def dataset_json(modalities=MODALITIES, *, regions=False, source_labels=None, ending=".nii.gz") -> dict:
    content = {
        "channel_names": {str(i): m for i, m in enumerate(modalities)},
        "labels": REGIONS if regions else LABELS,
        "numTraining": 2,
        "file_ending": ending,
    }
    if regions:
        content["regions_class_order"] = [2, 1, 3]
    if source_labels is not None:
        content["mstkd"] = {"source_labels": source_labels}
    return content


def plans_json(modalities=MODALITIES, *, normalization="ZScoreNormalization", cascade=False) -> dict:
    channels = len(modalities)
    schemes = [normalization] * channels if isinstance(normalization, str) else list(normalization)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16],
        "median_image_size_in_voxels": [26.0, 30.0, 28.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": schemes,
        "use_mask_for_norm": [scheme == "ZScoreNormalization" for scheme in schemes],
        "batch_dice": False,
        "architecture": ARCHITECTURE,
        **{
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape"
            for what in ("data", "seg", "probabilities")
        },
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
    }
    if cascade:
        configuration["previous_stage"] = "3d_lowres"
    statistics = {"mean": 40.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}
    return {
        "dataset_name": "Dataset990_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [26, 30, 28],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): statistics for i in range(channels)},
    }


def write_model(
    folder: Path,
    dataset: dict,
    plans: dict,
    *,
    trainer="nnUNetTrainer",
    folds=(0,),
    configuration_name="3d_fullres",
) -> Path:
    """A model folder as training leaves it, with random weights (another seed per fold)."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(configuration_name)
    inputs = determine_num_input_channels(manager, configuration, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans))
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            inputs,
            heads,
            deep_supervision=False,
        )
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "trainer_name": trainer,
                "init_args": {"configuration": configuration_name},
                "inference_allowed_mirroring_axes": tuple(range(len(configuration.patch_size))),
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return folder


def volume(seed: int, *, shape=SHAPE, border=3) -> np.ndarray:
    """Smooth positive intensities inside, zero around: nnU-Net will crop."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    inside = tuple(n - 2 * border for n in shape)
    values = gaussian_filter(rng.normal(size=inside), 1.5)
    array = np.zeros(shape, dtype=np.float32)
    array[(slice(border, -border or None),) * 3] = 500 + 300 * values / values.std()
    return np.maximum(array, 0).astype(np.int16)


def write_volume(path: Path, array: np.ndarray, **geometry) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    settings = {**GEOMETRY, **geometry}
    if array.ndim == 3:
        image.SetSpacing(settings["spacing"])
        image.SetOrigin(settings["origin"])
        image.SetDirection(settings["direction"])
    sitk.WriteImage(image, str(path))
    return path


def write_case(root: Path, name: str, modalities=MODALITIES, *, seed=0, ending=".nii.gz") -> Path:
    """A BraTS case folder; a modality's voxels depend on the seed and the modality only."""
    for modality in modalities:
        array = volume(10 * seed + MODALITIES.index(modality))
        write_volume(root / name / f"{name}-{modality}{ending}", array)
    return root / name


def read_array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="session")
def files():
    """The helpers above, for test modules."""
    return SimpleNamespace(
        dataset_json=dataset_json,
        plans_json=plans_json,
        write_model=write_model,
        volume=volume,
        write_volume=write_volume,
        write_case=write_case,
        read_array=read_array,
        modalities=MODALITIES,
        geometry=GEOMETRY,
        shape=SHAPE,
        beside=BESIDE,
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Model folders below an nnUNet_results: ``labels`` (stock trainer) and ``regions`` (ours, two folds)."""
    results = tmp_path_factory.mktemp("results")
    parent = results / "Dataset990_Tiny"
    source_labels = {"1": 1, "2": 2, "3": 4}
    return SimpleNamespace(
        results=results,
        labels=write_model(
            parent / "nnUNetTrainer__nnUNetPlans__3d_fullres",
            dataset_json(source_labels=source_labels),
            plans_json(),
        ),
        regions=write_model(
            parent / "nnUNetTrainerModalityDropout__nnUNetPlans__3d_fullres",
            dataset_json(regions=True),
            plans_json(),
            trainer="nnUNetTrainerModalityDropout",
            folds=(0, 1),
        ),
    )


@pytest.fixture(scope="session")
def brats(tmp_path_factory):
    """BraTS folders: one whole case, one without t1n and t2w."""
    root = tmp_path_factory.mktemp("brats")
    write_case(root, "BraTS-GLI-00001-000")
    write_case(root, "BraTS-GLI-00002-000", ("t1c", "t2f"), seed=1)
    return root


@pytest.fixture
def predict(capsys, caplog):
    """Run ``nnUNetv2_mstkd predict`` in this process: exit code, what it printed, what it warned of."""
    from nnunetv2_mstkd.cli import main

    def run(source, output, *flags, model):
        capsys.readouterr()
        caplog.clear()
        arguments = ["-i", str(source), "-o", str(output), "-m", str(model), "-device", "cpu"]
        code = main(["predict", *arguments, "--disable_tta", *map(str, flags)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err, warnings=caplog.messages)

    return run
