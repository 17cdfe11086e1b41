"""Planning for a training that starts from given weights: their network and patch, unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.network import NETWORK_CLASS, MSTKDNet
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold, open_model_folder
from nnunetv2_mstkd.models.starting_weights import (
    existing,
    model_folder_of,
    planned_architecture,
    read_starting_weights,
    start_network,
)
from nnunetv2_mstkd.plans.architecture import planned_network
from nnunetv2_mstkd.plans.options import PlanOptions, Template
from nnunetv2_mstkd.plans.teacher import like_model, network_of

# Of the patches that nnssl recommends; nnU-Net's own for a residual encoder.
_BATCH = 2


def with_start(
    options: PlanOptions,
    source: Path,
    fold: Fold | None = None,
    checkpoint: str | None = None,
    *,
    any_network: bool = True,
) -> PlanOptions:
    """Options that name weights to start from and keep to their network, patch size and configuration.

    Args:
        options: what the user chose wins.
        source: a model folder, or a checkpoint of nnU-Net or nnssl.
        fold: of the model folder; by default each training takes the fold of its own number.
        checkpoint: of that fold; by default checkpoint_final.pth.
        any_network: the weights may bring the kind of network; otherwise that of ``options`` was chosen.

    Raises:
        MSTKDError: no such model, fold or checkpoint; or the settings name another one.
    """
    if "init" in options.settings:
        raise MSTKDError("--init and --set init=... both name starting weights; leave one out")
    named = {"init": str(source.resolve()), "init_fold": fold, "init_checkpoint": checkpoint}
    settings = {key: value for key, value in named.items() if value is not None}
    options = replace(options, settings={**settings, **options.settings})
    folder = source if existing(source).is_dir() else model_folder_of(source)
    if folder is None:
        return _like_file(options, source, any_network)
    model = open_model_folder(folder)
    network = network_of(model)
    if any_network and network is not None and options.method is None:
        options = replace(options, network="mstkdnet" if isinstance(network, MSTKDNet) else "plans")
    return like_model(options, model, any_preset=any_network)


def _like_file(options: PlanOptions, file: Path, any_network: bool) -> PlanOptions:
    """Options for the network of a pre-training; any other file says too little."""
    planned = planned_architecture(file)
    if planned is None:
        return options
    architecture, patch = planned
    if any_network and options.method is None:
        options = replace(options, network="plans")
    if options.network == "mstkdnet":
        return options
    axes = len(patch)
    return replace(
        options,
        configurations=options.configurations or ("2d" if axes == 2 else "3d_fullres",),
        patch_size=options.patch_size or patch,
        template=Template(architecture, patch, options.batch_size or _BATCH),
    )


def check_start(
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    configurations: Sequence[str],
    options: PlanOptions,
) -> list[str]:
    """What the networks of planned configurations will start from, in words.

    Raises:
        MSTKDError: the weights that the settings name are not there, or do not fit.
    """
    init = options.settings.get("init")
    if init is None:
        return []
    file = _some_checkpoint(Path(init), options.settings)
    source = read_starting_weights(file)
    manager, lines = PlansManager(dict(plans)), []
    for name in configurations:
        configuration = manager.get_configuration(name)
        channels = determine_num_input_channels(manager, configuration, dict(dataset_json))
        heads = manager.get_label_manager(dict(dataset_json)).num_segmentation_heads
        network = planned_network(options, configuration, channels, heads)
        shape = (2, channels, *configuration.patch_size)
        try:
            start = start_network(network, source, dataset_json, shape)
        except MSTKDError as error:
            raise MSTKDError(f"{name}: {error}{_remedy(options)}") from None
        lines += [f"{name}: {line}" for line in start.lines]
    return lines


def _remedy(options: PlanOptions) -> str:
    return (
        ""
        if options.network == "plans"
        else f" (planned is {NETWORK_CLASS.rpartition('.')[2]}; --network plans is nnU-Net's own)"
    )


def _some_checkpoint(source: Path, settings: Mapping[str, Any]) -> Path:
    """One of the files that trainings will start from; all folds of a model have the same network."""
    if existing(source).is_file():
        return source
    fold, name = settings.get("init_fold"), settings.get("init_checkpoint", FINAL_CHECKPOINT)
    remedy = "choose with --init-fold and --init-checkpoint"
    folds = open_model_folder(source).folds(None if fold is None else (fold,), name, remedy)
    return source / f"fold_{folds[0]}" / name
