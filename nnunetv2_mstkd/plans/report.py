"""What was planned, as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.datasets.availability import describe as describe_availability
from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.plans.architecture import planned_network
from nnunetv2_mstkd.plans.memory import GIGABYTE
from nnunetv2_mstkd.plans.plan_dataset import Planned
from nnunetv2_mstkd.plans.starting_weights import check_start
from nnunetv2_mstkd.plans.teacher import describe_transfer
from nnunetv2_mstkd.settings import DEFAULT_TRAINER, SETTINGS_KEY, TEACHERS, teacher_of

_HEADER = ("configuration", "patch", "batch", "features", "tokens", "parameters", "memory", "data")
# Trainers by preset of MSTKDNet (None is a network of nnU-Net): the first that reads the plans' settings.
_TRAINERS = {
    "nnunet": (DEFAULT_TRAINER, "nnUNetTrainerMSTKD"),
    "official": ("nnUNetTrainerMSTKDOfficial",),
    # Conditioned dropout was not measured on nnU-Net's networks yet.
    None: ("nnUNetTrainerModalityDropout", "nnUNetTrainerMSTKDUNet"),
}
_OF_MSTKDNET_UNDER_A_MODEL = "nnUNetTrainerMSTKDFrozenTeacher"
_WITH_A_MODEL_AS_TEACHER = {
    "nnunet": _OF_MSTKDNET_UNDER_A_MODEL,
    "official": _OF_MSTKDNET_UNDER_A_MODEL,
    None: "nnUNetTrainerMSTKDUNet",
}


def describe(planned: Planned) -> str:
    """A table with a row per newly planned configuration, what is left to do, and what to type next."""
    rows = [_row(planned, name) for name in planned.saved.sources]
    lines = [str(planned.saved.file), *_table([_HEADER, *rows]), *_cascades(planned), *_warnings(planned)]
    cases = describe_availability(planned.availability)
    transfer = describe_transfer(
        planned.saved.plans, planned.dataset_json, (*planned.saved.sources, *planned.saved.inheriting)
    )
    named = [*planned.saved.sources, *planned.saved.inheriting]
    named = [name for name in named if planned.options.named(name)]
    start = check_start(planned.saved.plans, planned.dataset_json, named, planned.options)
    return "\n".join([*lines, *transfer, *start, *cases, *_preprocess(planned), _train(planned)])


def _row(planned: Planned, name: str) -> tuple[str, ...]:
    configuration = planned.saved.plans["configurations"][name]
    manager = PlansManager(dict(planned.saved.plans))
    outputs = manager.get_label_manager(planned.dataset_json).num_segmentation_heads
    channels = len(configuration["normalization_schemes"])
    network = planned_network(planned.options, manager.get_configuration(name), channels, outputs)
    if planned.options.method is None:
        features = ",".join(map(str, configuration["architecture"]["arch_kwargs"]["features_per_stage"]))
    else:
        features = str(configuration.get(SETTINGS_KEY, {}).get("base_features", "as released"))
    parameters = sum(p.numel() for p in network.parameters())
    source = planned.saved.sources[name]
    return (
        name,
        _times(configuration["patch_size"]),
        str(configuration["batch_size"]),
        features,
        _times(network.token_grid) if isinstance(network, MSTKDNet) else "-",
        f"{parameters / 1e6:.1f} M",
        f"{_gigabytes(planned, name):.1f} GB",
        f"{source.identifier} ({source.cases} of {planned.dataset_json['numTraining']} cases)",
    )


def _gigabytes(planned: Planned, name: str) -> float:
    batch = planned.saved.plans["configurations"][name]["batch_size"]
    return planned.memory[name].total_bytes(batch) / GIGABYTE


def _warnings(planned: Planned) -> Iterator[str]:
    for name in planned.saved.sources:
        batch = planned.saved.plans["configurations"][name]["batch_size"]
        if planned.memory[name].patches_within(planned.target_gb * GIGABYTE) < batch:
            needed = f"about {_gigabytes(planned, name):.1f} GB"
            yield f"warning: {name} needs {needed}, more than -gpu_memory_target {planned.target_gb:g}"


def _cascades(planned: Planned) -> Iterator[str]:
    for name in planned.saved.inheriting:
        configuration = planned.saved.plans["configurations"][name]
        after = configuration.get("previous_stage")
        yield f"{name}: as {configuration['inherits_from']}" + (f", after {after}" if after else "")


def _preprocess(planned: Planned) -> Iterator[str]:
    """The commands that make what is missing of the preprocessed data, one per plans file."""
    missing: dict[str, list[str]] = {}
    for source in planned.saved.sources.values():
        if source.cases < planned.dataset_json["numTraining"]:
            missing.setdefault(source.plans, []).append(source.configuration)
    if missing:
        yield "not all cases are preprocessed; what you want to train needs"
    for plans, names in missing.items():
        yield f"  nnUNetv2_preprocess -d {_number(planned)} -plans_name {plans} -c {' '.join(names)}"


def _train(planned: Planned) -> str:
    plans = planned.saved.plans
    entries = plans["configurations"]
    names = [*planned.saved.sources, *planned.saved.inheriting]
    taught = [name for name in names if _teacher(entries[name]) not in TEACHERS]
    name = next((name for name in (*taught, "3d_fullres") if name in names), names[0])
    architecture = entries[entries[name].get("inherits_from", name)]["architecture"]
    preset = architecture["arch_kwargs"].get("preset")
    trainer = planned.options.trainer or _reader(_TRAINERS[preset], entries[name].get(SETTINGS_KEY, {}))
    if taught and planned.options.trainer is None:
        trainer = _WITH_A_MODEL_AS_TEACHER.get(preset, trainer)
    return f"next: nnUNetv2_mstkd train {_number(planned)} {name} 0 -p {plans['plans_name']} -tr {trainer}"


def _reader(trainers: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The first trainer that reads all settings, or the last of all."""
    reads = (t for t in trainers if settings.keys() <= getattr(methods, t).settings_read().keys())
    return next(reads, trainers[-1])


def _teacher(configuration: Mapping[str, Any]) -> str:
    return teacher_of(configuration.get(SETTINGS_KEY, {}))


def _number(planned: Planned) -> int:
    return int(planned.saved.plans["dataset_name"][len("Dataset") :].split("_")[0])


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _times(numbers: Sequence[Any]) -> str:
    return "x".join(str(int(n)) for n in numbers)
