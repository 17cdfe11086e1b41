"""Writing an nnU-Net raw data set: images by link, segmentations in converted labels, placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunetv2_mstkd.datasets.convert.inspection import Inspection
from nnunetv2_mstkd.datasets.convert.source_cases import read_images
from nnunetv2_mstkd.datasets.formats import FORMATS, DatasetFormat
from nnunetv2_mstkd.datasets.labels import label_section, source_label_section, to_target_labels
from nnunetv2_mstkd.datasets.unlabelled import UNLABELLED_KEY
from nnunetv2_mstkd.datasets.volumes import geometry_of, image_on_grid, read_checked, write_image, zero_image
from nnunetv2_mstkd.files import link_or_copy
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


@dataclass(frozen=True)
class CaseJob:
    """One case to write.

    Attributes:
        inspection: the case, read and found good; without a segmentation, its label is all background.
        folder: the data set's folder, with imagesTr and labelsTr in it.
        ending: file ending of the data set.
        format_name: the source's format.
        copy: copy files instead of linking them.
    """

    inspection: Inspection
    folder: Path
    ending: str
    format_name: str
    copy: bool


def choose_ending(inspections: Sequence[Inspection]) -> str:
    """``.nii`` where every image is an uncompressed 3D file, else ``.nii.gz`` (others are rewritten)."""
    images = [image for inspection in inspections for image in inspection.case.images.values()]
    plain = all(image.channel is None and image.path.name.endswith(".nii") for image in images)
    return ".nii" if plain else ".nii.gz"


def write_case(job: CaseJob) -> None:
    """Write images, placeholders for absent ones, and the segmentation of one case."""
    case, geometry = job.inspection.case, job.inspection.geometry
    if geometry is None:
        raise ValueError(f"case {case.name} was not inspected")
    targets = {
        modality: job.folder / "imagesTr" / f"{case.name}_{channel:04d}{job.ending}"
        for channel, modality in enumerate(BRATS_MODALITIES)
    }
    # What an image holds that shows nothing is not always zero; its placeholder is.
    shown = {m: image for m, image in case.images.items() if m not in job.inspection.absent}
    as_is = {
        modality
        for modality, image in shown.items()
        if image.channel is None and image.path.name.endswith(job.ending)
    }
    for modality in as_is:
        link_or_copy(case.images[modality].path, targets[modality], copy=job.copy)
    others = {modality: image for modality, image in shown.items() if modality not in as_is}
    for modality, image in read_images(replace(case, images=others)):
        write_image(image, targets[modality])
    for modality in job.inspection.absent:
        write_image(zero_image(geometry), targets[modality])
    target = job.folder / "labelsTr" / f"{case.name}{job.ending}"
    if case.segmentation is None:
        write_image(zero_image(geometry), target)
    else:
        _write_segmentation(job, case.segmentation, target)


def _write_segmentation(job: CaseJob, source: Path, target: Path) -> None:
    """Link the segmentation if nnU-Net can use it as it is, else write it in converted labels (uint8)."""
    label_map = FORMATS[job.format_name].label_map
    unchanged = all(label_map[value] == value for value in job.inspection.label_values)
    if unchanged and job.inspection.integer_labels and source.name.endswith(job.ending):
        link_or_copy(source, target, copy=job.copy)
        return
    image = read_checked(source)
    array = to_target_labels(sitk.GetArrayViewFromImage(image), FORMATS[job.format_name])
    write_image(image_on_grid(array, geometry_of(image)), target)


def dataset_json(
    inspections: Sequence[Inspection], fmt: DatasetFormat, *, name: str, ending: str, regions: bool
) -> dict[str, Any]:
    """The content of ``dataset.json``; what this plugin adds is under ``"mstkd"`` (see docs/data.md)."""
    cases = [inspection.case.name for inspection in inspections]
    unlabelled = sorted(i.case.name for i in inspections if i.case.segmentation is None)
    return {
        "channel_names": {str(i): modality for i, modality in enumerate(BRATS_MODALITIES)},
        **label_section(fmt, regions=regions),
        "numTraining": len(cases),
        "file_ending": ending,
        # nnU-Net's own choice for .nii is another reader than for .nii.gz; this one reads both.
        "overwrite_image_reader_writer": "SimpleITKIO",
        "name": name,
        "description": f"{fmt.title}, converted by nnunetv2-mstkd",
        "mstkd": {
            "format": fmt.name,
            "source_labels": source_label_section(fmt),
            "incomplete_cases": {i.case.name: list(i.absent) for i in inspections if i.absent},
            "patients": {case: fmt.patient(case) for case in cases},
            **({UNLABELLED_KEY: unlabelled} if unlabelled else {}),
        },
    }
