"""Writing the plans file: shared data, trainer settings, and what was in the file before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json
from nnunetv2_mstkd.plans.data_reuse import DataSource, find_source
from nnunetv2_mstkd.plans.options import CONFIGURATIONS, PlanOptions
from nnunetv2_mstkd.settings import SETTINGS_KEY

PLANNER_NAME = "MSTKDPlanner"
_PLANNER_KEY = "experiment_planner_used"


@dataclass(frozen=True)
class Saved:
    """A plans file on disk.

    Attributes:
        file: its path.
        plans: its content.
        sources: where the data of each newly planned configuration comes from.
        inheriting: newly planned configurations that take their data (and settings, but for a model as
            the teacher) from another one.
    """

    file: Path
    plans: Mapping[str, Any]
    sources: Mapping[str, DataSource]
    inheriting: tuple[str, ...]


def save(
    plans: Mapping[str, Any], folder: Path, options: PlanOptions, preset_settings: Mapping[str, Any]
) -> Saved:
    """Write ``folder/PLANS_NAME.json``.

    Configurations that are in the file already and not planned now stay, except that a run without a choice
    of configurations removes those of nnU-Net's four that its rules no longer give.

    Args:
        plans: as nnU-Net's planner makes them, JSON types.
        folder: of the preprocessed data set.
        options: the chosen configurations and the trainer settings.
        preset_settings: trainer settings that the options' settings override.

    Raises:
        MSTKDError: a chosen configuration was not planned, or the file is not one of ours to replace.
    """
    target = folder / f"{plans['plans_name']}.json"
    planned = _chosen(plans, options)
    sources: dict[str, DataSource] = {}
    inheriting = tuple(name for name, configuration in planned.items() if "inherits_from" in configuration)
    for name, configuration in planned.items():
        own = options.settings_for(name)
        settings = {**preset_settings, **own}
        if name in inheriting:
            if own != options.settings_for(configuration["inherits_from"]):  # a teacher of its own
                configuration[SETTINGS_KEY] = settings
            continue
        sources[name] = find_source(plans, name, folder)
        configuration["data_identifier"] = sources[name].identifier
        if settings:
            configuration[SETTINGS_KEY] = settings
    earlier = _earlier(plans, planned, target, keep_all=bool(options.configurations))
    written = {**plans, "configurations": {**planned, **earlier}}
    write_json(written, target)
    return Saved(target, written, sources, inheriting)


def check_replaceable(target: Path) -> None:
    """Refuse to replace a plans file that another planner wrote.

    Raises:
        MSTKDError: naming that planner.
    """
    if target.exists():
        content = read_json(target)
        planner = content.get(_PLANNER_KEY, "hand") if isinstance(content, dict) else "hand"
        if planner != PLANNER_NAME:
            raise MSTKDError(
                f"{target.name} was written by {planner}; choose another name with -overwrite_plans_name"
            )


def _chosen(plans: Mapping[str, Any], options: PlanOptions) -> dict[str, dict[str, Any]]:
    available = plans["configurations"]
    for name in options.configurations:
        if name not in available:
            raise MSTKDError(
                f"configuration {name} does not exist for {plans['dataset_name']} at this patch size;"
                f" nnU-Net's rules give {', '.join(available)}"
            )
    return {name: dict(c) for name, c in available.items() if options.chosen(name)}


def _earlier(
    plans: Mapping[str, Any], planned: Mapping[str, Any], target: Path, *, keep_all: bool
) -> dict[str, dict[str, Any]]:
    """Configurations of the file on disk that stay."""
    if not target.exists():
        return {}
    old = read_json(target)
    others = {name: c for name, c in old["configurations"].items() if name not in planned}
    own_names = {name for name in others if keep_all or name not in CONFIGURATIONS}
    needed = {others[name].get(link) for name in own_names for link in ("inherits_from", "previous_stage")}
    staying = {name: c for name, c in others.items() if name in own_names | needed}
    if staying and old["transpose_forward"] != plans["transpose_forward"]:
        raise MSTKDError(
            f"{target.name} has configurations with another order of axes ({', '.join(staying)});"
            " choose another name with -overwrite_plans_name"
        )
    return staying
