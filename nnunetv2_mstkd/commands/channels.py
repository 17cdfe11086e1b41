"""Which modalities are looked for: those of a model, of a ``dataset.json``, or the four of BraTS."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mstkd.commands.arguments import add_model_arguments, chosen_model
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES
from nnunetv2_mstkd.models.folder import dataset_modalities, image_axes, read_dataset_json


@dataclass(frozen=True)
class Channels:
    """What a model, or a data set, expects of images.

    Attributes:
        modalities: in channel order.
        file_ending: of its files.
        image_axes: numbers of axes that an image may have.
        zero_background: it learnt from images whose background is zero.
    """

    modalities: tuple[str, ...] = BRATS_MODALITIES
    file_ending: str = ".nii.gz"
    image_axes: tuple[int, ...] = (3,)
    zero_background: bool = True


def add_channel_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name a model, and --dataset_json."""
    add_model_arguments(parser, any_configuration=True)
    parser.add_argument(
        "--dataset_json", metavar="FILE", type=Path, help="the channels' names and order, instead of a model"
    )


def chosen_channels(arguments: argparse.Namespace) -> Channels:
    """Read what was named; BraTS's four sequences where nothing was.

    Raises:
        MSTKDError: more than one source is named, or it cannot be read.
    """
    named = [flag for flag in (arguments.d, arguments.m, arguments.dataset_json) if flag is not None]
    if len(named) > 1:
        raise MSTKDError("give only one of -d, -m and --dataset_json")
    if arguments.dataset_json is not None:
        content = read_dataset_json(arguments.dataset_json)
        return Channels(dataset_modalities(content), str(content["file_ending"]), image_axes(content))
    if not named:
        return Channels()
    model = chosen_model(arguments, any_configuration=True)
    return Channels(model.modalities, model.file_ending, model.image_axes, model.zero_background)
