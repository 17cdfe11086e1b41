"""The cases of a data set to convert: folders of single files, or the Decathlon's stacked 4D files."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunetv2_mstkd.datasets.cases import is_utf8, shown
from nnunetv2_mstkd.datasets.discovery import check_source, discover, is_numbered
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.listing import entries
from nnunetv2_mstkd.datasets.nifti import is_nifti_name, without_ending
from nnunetv2_mstkd.datasets.volumes import read_checked
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json
from nnunetv2_mstkd.modalities import BRATS_MODALITIES, modalities_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceImage:
    """Where the voxels of one modality are: a 3D file, or one channel of a 4D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class SourceCase:
    """A case to convert; absent modalities are left out of ``images``.

    Attributes:
        patient: where the source says whose it is; else its name may.
    """

    name: str
    images: dict[str, SourceImage]
    segmentation: Path | None = None
    patient: str | None = None


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
        MSTKDError: no such source, no cases, or channels in a ``dataset.json`` that are not BraTS's.
    """
    check_source(source)
    if rules is None and is_decathlon(source):
        return _decathlon_cases(source)
    order = _numbered_order(source) if source.is_dir() and is_numbered(source) else BRATS_MODALITIES
    found = discover(source, order, rules=rules)
    cases = (
        SourceCase(
            case.name,
            {m: SourceImage(case.images[m]) for m in BRATS_MODALITIES if m in case.images},
            case.segmentation,
            case.patient,
        )
        for case in found.cases
    )
    return Sources(tuple(cases), found.problems)


def stated_patients(cases: Iterable[SourceCase]) -> dict[str, str]:
    """Case → patient, of the cases whose source says so."""
    return {case.name: case.patient for case in cases if case.patient is not None}


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


def _numbered_order(folder: Path) -> tuple[str, ...]:
    """What the numbers of nnU-Net's files mean: read, or said to be assumed.

    Raises:
        MSTKDError: channels that this conversion does not know.
    """
    described = next((p for p in (folder, folder.resolve().parent) if (p / "dataset.json").is_file()), None)
    if described is None:
        known = ", ".join(BRATS_MODALITIES)
        logger.warning("%s has no dataset.json: its channels are taken for %s, in this order", folder, known)
        return BRATS_MODALITIES
    path = described / "dataset.json"
    return _checked_order(path, _channel_names(path, "channel_names", "modality"), all_four=False)


def _decathlon_cases(source: Path) -> Sources:
    """``imagesTr/BRATS_001.nii.gz`` (4D) with ``labelsTr``; the channel order is read, never assumed."""
    described = source / "dataset.json"
    order = _checked_order(described, _channel_names(described, "modality"), all_four=True)
    images, labels = _by_case(source / "imagesTr"), _by_case(source / "labelsTr")
    if not images:
        raise MSTKDError(f"no NIfTI files in {source / 'imagesTr'}")
    cases, problems = [], {}
    for name, files in images.items():
        segmentations = labels.get(name, [])
        twice = [path.name for paths in (files, segmentations) if len(paths) > 1 for path in paths]
        if not is_utf8(files[0]):
            problems[shown(name)] = "the name is not UTF-8; rename the files"
        elif twice:
            problems[name] = f"duplicate case id, found in {', '.join(twice)}; keep one"
        else:
            channels = {m: SourceImage(files[0], order.index(m)) for m in BRATS_MODALITIES}
            cases.append(SourceCase(name, channels, next(iter(segmentations), None)))
    return Sources(tuple(cases), problems)


def _by_case(folder: Path) -> dict[str, list[Path]]:
    """Case → its NIfTI files, of a folder that may not be there."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in entries(folder) if folder.is_dir() else ():
        if is_nifti_name(path.name):
            found[without_ending(path.name)].append(path)
    return found


def _checked_order(path: Path, names: dict[str, str], *, all_four: bool) -> tuple[str, ...]:
    """The modalities in the order of their channels, after a look at which they are."""
    order = modalities_of(names)
    if set(order) - set(BRATS_MODALITIES) or (all_four and len(order) < len(BRATS_MODALITIES)):
        whose = "those of Task01_BrainTumour" if all_four else "only BraTS's"
        raise MSTKDError(
            f"{path} names the channels {', '.join(order)}; expected {whose}, {', '.join(BRATS_MODALITIES)}"
        )
    return order


def _channel_names(path: Path, *keys: str) -> dict[str, str]:
    """What a ``dataset.json`` has under the first of these keys that is there."""
    content = read_json(path)
    found = [content[key] for key in keys if key in content] if isinstance(content, dict) else []
    if not found or not isinstance(found[0], dict):
        remedy = "; of an nnU-Net data set give the folder imagesTr" if keys[0] == "modality" else "; add it"
        raise MSTKDError(f'{path} has no "{keys[0]}", the order of the channels{remedy}')
    return found[0]
