"""The cases of a data set to convert: folders of single files, or the Decathlon's stacked 4D files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.nifti import NIFTI_ENDINGS, is_nifti_name, without_ending
from nnunetv2_mstkd.datasets.volumes import read_checked
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, modalities_of


@dataclass(frozen=True)
class SourceImage:
    """Where the voxels of one modality are: a 3D file, or one channel of a 4D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class SourceCase:
    """A case to convert; absent modalities are left out of ``images``."""

    name: str
    images: dict[str, SourceImage]
    segmentation: Path | None = None


@dataclass(frozen=True)
class Sources:
    """All cases, and for each bad one a line that says why."""

    cases: tuple[SourceCase, ...]
    problems: dict[str, str]

    @property
    def files(self) -> Iterator[Path]:
        """Every file that is read."""
        for case in self.cases:
            yield from {image.path for image in case.images.values()}
            if case.segmentation is not None:
                yield case.segmentation


def is_decathlon(source: Path) -> bool:
    """Whether the folder has the Medical Segmentation Decathlon's own layout."""
    return (source / "dataset.json").is_file() and (source / "imagesTr").is_dir()


def find_sources(source: Path, rules: InputRules | None = None) -> Sources:
    """Find the cases of a folder, or of a table.

    Args:
        rules: how to read names that do not tell; a Decathlon folder is then one like any other.

    Raises:
        MSTKDError: no such source, no cases, or a Decathlon folder whose channels are not BraTS's four.
    """
    if rules is None and is_decathlon(source):
        return _decathlon_cases(source)
    found = discover(source, BRATS_MODALITIES, rules=rules)
    cases = (
        SourceCase(case.name, {m: SourceImage(path) for m, path in case.images.items()}, case.segmentation)
        for case in found.cases
    )
    return Sources(tuple(cases), found.problems)


def read_images(case: SourceCase) -> Iterator[tuple[str, sitk.Image]]:
    """Modality and 3D image, one after the other; a 4D file is read once.

    Raises:
        MSTKDError: a file fails ``read_checked``, or a 4D file has too few channels.
    """
    stacks: dict[Path, sitk.Image] = {}
    for modality, image in case.images.items():
        if image.channel is None:
            yield modality, read_checked(image.path)
            continue
        if image.path not in stacks:
            stacks = {image.path: read_checked(image.path, dimensions=(4,))}
        yield modality, _channel(stacks[image.path], image)


def _channel(stack: sitk.Image, image: SourceImage) -> sitk.Image:
    *size, channels = stack.GetSize()
    if image.channel is None or image.channel >= channels:
        raise MSTKDError(f"{image.path} has {channels} channels, fewer than its dataset.json names")
    return sitk.Extract(stack, [*size, 0], [0, 0, 0, image.channel])


def _decathlon_cases(source: Path) -> Sources:
    """``imagesTr/BRATS_001.nii.gz`` (4D) with ``labelsTr``; the channel order is read, never assumed."""
    order = modalities_of(_channel_names(source / "dataset.json"))
    if sorted(order) != sorted(BRATS_MODALITIES):
        raise MSTKDError(
            f"{source / 'dataset.json'} names the channels {', '.join(order)}; expected those of"
            f" Task01_BrainTumour, {', '.join(BRATS_MODALITIES)}"
        )
    cases = []
    for path in sorted((source / "imagesTr").iterdir()):
        if path.name.startswith(".") or not is_nifti_name(path.name):
            continue
        name = without_ending(path.name)
        images = {modality: SourceImage(path, order.index(modality)) for modality in BRATS_MODALITIES}
        labels = (source / "labelsTr" / f"{name}{ending}" for ending in NIFTI_ENDINGS)
        cases.append(SourceCase(name, images, next((p for p in labels if p.is_file()), None)))
    if not cases:
        raise MSTKDError(f"no NIfTI files in {source / 'imagesTr'}")
    return Sources(tuple(cases), {})


def _channel_names(path: Path) -> dict[str, str]:
    content = read_json(path)
    names = content.get("modality") if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise MSTKDError(f'{path} has no "modality" as the Decathlon\'s has it, the order of the channels')
    return names
