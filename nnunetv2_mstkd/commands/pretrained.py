"""``-pretrained_weights``: read safely, fitted to the network, and handed on in the form that nnU-Net takes.

nnU-Net's own loading asks for every tensor of the network in its shape. So where a file has other input
channels, or an encoder alone, nnU-Net is given a copy that holds what it asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_mstkd.architectures.starting_weights import names_of_tensors
from nnunetv2_mstkd.environment import quiet
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.building import build_network
from nnunetv2_mstkd.models.starting_weights import (
    Start,
    read_starting_weights,
    start_network,
)
from nnunetv2_mstkd.settings import SETTINGS_KEY


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint for a training to start from, and the training that will.

    Attributes:
        file: the checkpoint.
        start: what it has for the network.
        network: a trainer's network as it would begin.
    """

    file: Path
    start: Start
    network: nn.Module

    @contextmanager
    def fitting_file(self) -> Iterator[Path]:
        """A file that nnU-Net's loading takes; the copy, if one is needed, is there inside only.

        Prints what is taken and what is left.
        """
        for line in self.start.lines:
            print(line)
        if self.start.as_it_is:
            yield self.file
            return
        weights = {
            name: self.start.values.get(names[0], own.detach())
            for own, names in names_of_tensors(self.network)
            for name in names
        }
        with TemporaryDirectory(prefix="nnunetv2_mstkd_") as folder:
            copy = Path(folder) / f"{self.file.stem}_fitted.pth"
            torch.save({"network_weights": weights}, copy)
            yield copy


def check_pretrained(
    file: Path, trainer: str, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> Pretrained | None:
    """Read ``-pretrained_weights`` safely before nnU-Net reads it otherwise, and see how it fits.

    Returns:
        ``None`` where the trainer builds in a way of its own: nnU-Net's own check remains.

    Raises:
        MSTKDError: the file holds more than nnU-Net stores, is no checkpoint, or is of another network; or
            the plans name starting weights already.
    """
    source = read_starting_weights(file)
    manager = PlansManager(dict(plans))
    planned = manager.get_configuration(configuration)
    settings = planned.configuration.get(SETTINGS_KEY) or {}
    if settings.get("init") is not None:
        raise MSTKDError(
            f"these plans start from {settings['init']} (setting 'init'); leave -pretrained_weights out, or"
            " plan again without --init"
        )
    try:
        network = _built(trainer, manager, planned, dataset_json, settings.get("seed"))
    except MSTKDError:
        raise
    except Exception:
        return None
    channels = determine_num_input_channels(manager, planned, dict(dataset_json))
    shape = (2, channels, *planned.patch_size)
    return Pretrained(file, start_network(network, source, dataset_json, shape, heads=False), network)


def _built(
    trainer: str, manager: PlansManager, planned: Any, dataset_json: Mapping[str, Any], seed: int | None
) -> nn.Module:
    """The network with the values that it begins with: a file may lack some."""
    with quiet(), torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        return build_network(trainer, manager, planned, dict(dataset_json))
