"""Cases with absent modalities as a complete nnU-Net input folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.discovery import Case
from nnunetv2_mstkd.datasets.volumes import (
    Geometry,
    check_case,
    geometry_of,
    image_on_grid,
    is_constant,
    read_checked,
    write_image,
    zero_image,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path, link_or_copy
from nnunetv2_mstkd.inference.placeholders import Normalisation, fills_the_grid, placeholder_value
from nnunetv2_mstkd.inference.records import read_records, record
from nnunetv2_mstkd.inference.selection import ModalityUse, chosen_images, modality_use


@dataclass(frozen=True)
class InputFolder:
    """An nnU-Net input folder to be written.

    Attributes:
        folder: where the files go.
        file_ending: that of the model's data set.
        modalities: the model's, in channel order.
        normalisation: how each channel is normalised.
        copy: copy files instead of linking them.
        image_axes: numbers of axes that an image may have.
    """

    folder: Path
    file_ending: str
    modalities: tuple[str, ...]
    normalisation: tuple[Normalisation, ...]
    copy: bool = False
    image_axes: tuple[int, ...] = (3,)

    def target(self, case: str, modality: str) -> Path:
        """The file of one channel."""
        return self.folder / f"{case}_{self.modalities.index(modality):04d}{self.file_ending}"


def prepare_case(case: Case, output: InputFolder, wanted: Collection[str]) -> ModalityUse:
    """Write one case with a file for every channel, so that plain ``nnUNetv2_predict`` can take it.

    Files that nnU-Net can read as they are get a relative link. A modality that is absent, constant or not
    wanted gets a placeholder. All channels of the case appear together or, on an error, none: nnU-Net would
    take a case of three files for one of three channels.

    Raises:
        MSTKDError: the case cannot be used, no placeholder is known, or a file cannot be written.
    """
    chosen = chosen_images(case, wanted)
    _check_targets(case, output)
    check_case(chosen, dimensions=output.image_axes)
    images = {name: read_checked(path, dimensions=output.image_axes) for name, path in chosen.items()}
    constant = {name for name, image in images.items() if is_constant(sitk.GetArrayViewFromImage(image))}
    use = modality_use(case, output.modalities, wanted, constant)
    geometry = geometry_of(next(iter(images.values())))
    used = {name: images[name] for name in use.used}
    values = _placeholders(output, used)
    with ExitStack() as stack:
        for name in output.modalities:
            temporary = stack.enter_context(atomic_path(output.target(case.name, name)))
            if name not in used:
                write_image(_constant_image(geometry, values[name]), temporary)
            elif _usable_as_is(chosen[name], images[name], geometry, output.file_ending):
                link_or_copy(chosen[name], temporary, copy=output.copy)
            else:
                write_image(image_on_grid(sitk.GetArrayFromImage(images[name]), geometry), temporary)
        spacing = _spacing_file(next(iter(chosen.values())))
        if spacing is not None:
            link_or_copy(
                spacing,
                stack.enter_context(atomic_path(output.folder / f"{case.name}.json")),
                copy=output.copy,
            )
        record(output.folder, case.name, use.to_json())
    return use


def _check_targets(case: Case, output: InputFolder) -> None:
    """Refuse to write over images: those that are read, by whatever way, and those that are not ours."""
    read = {path.resolve() for path in case.images.values()}
    ours = case.name in read_records(output.folder)
    for modality in output.modalities:
        target = output.target(case.name, modality)
        if target.resolve() in read and not (target.is_symlink() and ours):
            raise MSTKDError(f"{target} is itself an image that is read; choose another -o")
        if target.exists() and not ours:
            raise MSTKDError(
                f"{target} is there and was not written by nnUNetv2_mstkd prepare; choose another -o"
            )


def _spacing_file(image: Path) -> Path | None:
    """Where nnU-Net's reader of 3D tif looks for the spacing: ``CASE.json`` beside ``CASE_0000.tif``."""
    case = image.with_suffix("").name[: -len("_0000")]
    file = image.with_name(f"{case}.json")
    return file if image.suffix in (".tif", ".tiff") and case and file.is_file() else None


def _placeholders(output: InputFolder, used: Mapping[str, sitk.Image]) -> dict[str, float]:
    """Value of the placeholder for each modality that is not used."""
    channels = dict(zip(output.modalities, output.normalisation, strict=True))
    values = {}
    for name in output.modalities:
        if name not in used:
            value = placeholder_value(channels[name])
            if value is None:
                raise MSTKDError(
                    f"no placeholder for {name} is known to become zero by {channels[name].scheme};"
                    " name the model with -d or -m, or use nnUNetv2_mstkd predict"
                )
            values[name] = value
    if any(values.values()):
        exactly = any(channel.within_mask for channel in output.normalisation)
        if not fills_the_grid([sitk.GetArrayViewFromImage(i) for i in used.values()], exactly=exactly):
            names = ", ".join(name for name, value in values.items() if value)
            raise MSTKDError(
                f"a placeholder for {names} cannot be zero, and another one would change nnU-Net's crop of"
                " this case; use nnUNetv2_mstkd predict"
            )
    return values


def _constant_image(geometry: Geometry, value: float) -> sitk.Image:
    if value == 0:
        return zero_image(geometry)
    return image_on_grid(np.full(geometry.size[::-1], value, dtype=np.float32), geometry)


def _usable_as_is(path: Path, image: sitk.Image, geometry: Geometry, ending: str) -> bool:
    """Whether nnU-Net's reader takes the file: right ending, and a grid equal by its own, tighter measure."""
    own = geometry_of(image)
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]] = (
        (own.spacing, geometry.spacing),
        (own.origin, geometry.origin),
        (own.direction, geometry.direction),
    )
    return path.name.endswith(ending) and all(np.allclose(a, b) for a, b in pairs)
