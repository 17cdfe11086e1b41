"""Planning one data set: the checks before nnU-Net's planner runs, and the run."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunetv2_mstkd.datasets.availability import Availability, store_availability
from nnunetv2_mstkd.environment import dataset_folder, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, writable_folder
from nnunetv2_mstkd.methods import known_settings, known_terms
from nnunetv2_mstkd.models.folder import channel_names, dataset_modalities
from nnunetv2_mstkd.plans.memory import Memory
from nnunetv2_mstkd.plans.options import PlanOptions, plans_name
from nnunetv2_mstkd.plans.planner import planner_class
from nnunetv2_mstkd.plans.saving import Saved, check_replaceable
from nnunetv2_mstkd.settings import parse_settings
from nnunetv2_mstkd.transforms import build_sampler

_log = logging.getLogger(__name__)
_FINGERPRINT = "dataset_fingerprint.json"
_FINGERPRINT_KEYS = (
    "spacings",
    "shapes_after_crop",
    "foreground_intensity_properties_per_channel",
    "median_relative_size_after_cropping",
)
# Far beyond any card and any image: with numbers of the size of 1e300 nnU-Net's arithmetic overflows.
_MOST_GB = 1e6
_SPACINGS = (1e-3, 1e3)


@dataclass(frozen=True)
class Planned:
    """What one run of the planner made.

    Attributes:
        saved: the plans file.
        dataset_json: of the raw data set.
        memory: estimate for each configuration planned now (a cascade shares that of 3d_fullres).
        target_gb: GPU memory that was planned for.
        availability: which modalities each training case has; stored for the trainers.
        options: that were planned with.
    """

    saved: Saved
    dataset_json: Mapping[str, Any]
    memory: Mapping[str, Memory]
    target_gb: float
    availability: Availability
    options: PlanOptions


def plan_dataset(
    dataset: str,
    options: PlanOptions,
    *,
    planner_name: str = "ExperimentPlanner",
    gpu_memory_target: float | None = None,
    preprocessor_name: str = "DefaultPreprocessor",
    target_spacing: Sequence[float] | None = None,
    name: str | None = None,
) -> Planned:
    """Plan a data set and write its plans file beside nnU-Net's.

    Args:
        dataset: id or ``DatasetXXX_Name``.
        options: overrides and choices.
        planner_name: class of nnU-Net's planner to build on.
        gpu_memory_target: GB; ``None`` is the planner's own default (8 for most).
        preprocessor_name: class of nnU-Net's preprocessor.
        target_spacing: mm per axis in the order of the images, for 3d_fullres and what follows from it.
        name: of the plans file; see :func:`options.plans_name`.

    Raises:
        MSTKDError: anything that the user has to change first.
    """
    file_name = plans_name(options.network, name or _default_name(options))
    raw = dataset_folder(nnunet_folder("nnUNet_raw"), dataset)
    preprocessed = nnunet_folder("nnUNet_preprocessed") / raw.name
    dataset_json = _check_dataset(raw, preprocessed)
    check_replaceable(writable_folder(preprocessed) / f"{file_name}.json")
    _check_numbers(gpu_memory_target, target_spacing)
    _find_class("preprocessing", preprocessor_name)
    base = _find_class("experiment_planning", planner_name)
    if not (isinstance(base, type) and issubclass(base, ExperimentPlanner)):
        raise MSTKDError(f"-pl {planner_name} is not an experiment planner of nnU-Net")
    arguments: dict[str, Any] = {"preprocessor_name": preprocessor_name, "plans_name": file_name}
    if gpu_memory_target is not None:
        arguments["gpu_memory_target_in_gb"] = gpu_memory_target
    if target_spacing is not None:
        arguments["overwrite_target_spacing"] = [float(mm) for mm in target_spacing]
    modalities = dataset_modalities(dataset_json)
    _check_names(parse_settings(options.settings, known_settings()), modalities)
    availability = store_availability(raw, preprocessed, modalities)
    with _nnunet_output_to_log():
        planner = planner_class(base, options)(raw.name, **arguments)
        planner.plan_experiment()
    return Planned(
        planner.saved,
        dataset_json,
        planner.memory,
        planner.UNet_vram_target_GB,
        availability,
        options,
    )


def _default_name(options: PlanOptions) -> str | None:
    """Plans of a method with a network of its own are named after it."""
    if options.method is None:
        return None
    return f"nnUNet{options.method.__name__.removeprefix('nnUNetTrainer')}Plans"


def _check_names(settings: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Names of modalities in the sampler's settings, known only with the data set, and of terms."""
    for name in settings.get("weights", {}):
        if name not in known_terms():
            raise MSTKDError(f"unknown objective term '{name}'; known: {', '.join(known_terms())}")
    given = {key: settings[key] for key in ("keep_probability", "subset_weights") if key in settings}
    build_sampler(settings.get("sampler", "uniform"), modalities, **given)


def _check_dataset(raw: Path, preprocessed: Path) -> dict[str, Any]:
    """The data set's dataset.json, if it and the fingerprint have what nnU-Net's planner needs."""
    dataset_json = read_json(raw / "dataset.json")
    for key in ("labels", "numTraining", "file_ending"):
        if key not in dataset_json:
            raise MSTKDError(f"{raw / 'dataset.json'} has no '{key}'; nnU-Net needs it")
    if "dataset" not in dataset_json:
        _check_images(raw / "imagesTr")
    number = raw.name[len("Dataset") :].split("_")[0]
    file = preprocessed / _FINGERPRINT
    if not file.exists():
        raise MSTKDError(
            f"no {_FINGERPRINT} in {preprocessed}; run nnUNetv2_plan_and_preprocess -d {number}"
            f" (or only nnUNetv2_extract_fingerprint -d {number})"
        )
    channels = len(channel_names(dataset_json))
    problem = _fingerprint_problem(read_json(file), channels)
    if problem:
        raise MSTKDError(f"{file} {problem}; run nnUNetv2_extract_fingerprint -d {number} --clean")
    return dataset_json


def _check_images(folder: Path) -> None:
    images = sorted(folder.glob("*"))
    if not images:
        raise MSTKDError(f"no training images in {folder}; nnU-Net's planner looks at one of them")
    gone = next((image for image in images if not image.exists()), None)
    if gone is not None:  # nnU-Net would pass such a case over in silence
        raise MSTKDError(f"{gone} is a link to {gone.readlink()}, which is not there: was the source moved?")


def _fingerprint_problem(fingerprint: Mapping[str, Any], channels: int) -> str | None:
    for key in _FINGERPRINT_KEYS:
        if key not in fingerprint:
            return f"has no '{key}'"
    if not fingerprint["shapes_after_crop"]:
        return "describes no case"
    smallest = min(min(spacing) for spacing in fingerprint["spacings"])
    if smallest <= 0:
        return f"has a spacing of {smallest:g}"
    described = len(fingerprint["foreground_intensity_properties_per_channel"])
    if described != channels:
        return f"describes {described} channels, but dataset.json names {channels}"
    return None


def _check_numbers(gpu_memory_target: float | None, target_spacing: Sequence[float] | None) -> None:
    if gpu_memory_target is not None and not 0 < gpu_memory_target <= _MOST_GB:
        raise MSTKDError(
            f"-gpu_memory_target {gpu_memory_target:g} is not possible; give a number of GB above 0,"
            f" at most {_MOST_GB:g}"
        )
    if target_spacing is not None and not (
        len(target_spacing) == 3 and all(_SPACINGS[0] <= mm <= _SPACINGS[1] for mm in target_spacing)
    ):
        given = " ".join(f"{mm:g}" for mm in target_spacing)
        raise MSTKDError(
            f"-overwrite_target_spacing {given} is not possible; give three numbers of mm from"
            f" {_SPACINGS[0]:g} to {_SPACINGS[1]:g}"
        )


def _find_class(package: str, class_name: str) -> Any:
    folder = Path(nnunetv2.__path__[0]) / package
    found = recursive_find_python_class(str(folder), class_name, current_module=f"nnunetv2.{package}")
    if found is None:
        raise MSTKDError(f"nnU-Net has no class '{class_name}' in nnunetv2.{package}")
    return found


@contextmanager
def _nnunet_output_to_log() -> Iterator[None]:
    """nnU-Net's planner prints whole configurations; keep them for the log."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            yield
    finally:
        _log.debug("nnU-Net's planner:\n%s", output.getvalue())
