"""Writing a segmentation so that it is there as a whole or not at all."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunetv2_mstkd.datasets.labels import to_source_labels
from nnunetv2_mstkd.datasets.nifti import count_non_finite, is_nifti_name
from nnunetv2_mstkd.datasets.nifti_labels import add_label_table
from nnunetv2_mstkd.datasets.regions import NamedLabel, named_labels
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path, temporary_beside, write_json
from nnunetv2_mstkd.inference.records import EXPECTED_KEY, FOLD_AGREEMENT_KEY, recorded
from nnunetv2_mstkd.models.folder import ModelFolder

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

    from nnunetv2_mstkd.inference.predictor import Segmentation

SOURCE_LABELS_KEY = "source_labels"
MASKS, PREVIEWS = "masks", "preview"  # folders among the segmentations that hold something else


@dataclass(frozen=True)
class Output:
    """A folder of segmentations.

    Attributes:
        folder: where they go.
        file_ending: that of the model's data set.
        source_labels: write label values in the convention of the data set's source.
        probabilities: also keep ``.npz`` and ``.pkl``, as nnU-Net's ensembling reads them.
    """

    folder: Path
    file_ending: str
    source_labels: bool = False
    probabilities: bool = False

    def target(self, case: str) -> Path:
        """The case's segmentation."""
        return self.folder / f"{case}{self.file_ending}"

    def is_finished(self, case: str) -> bool:
        """Whether everything that is asked for is there already."""
        files = [self.target(case)]
        if self.probabilities:
            files += [self.folder / f"{case}.npz", self.folder / f"{case}.pkl"]
        return all(file.is_file() for file in files)


def entry_of(result: Segmentation, *, source_labels: bool) -> dict[str, Any]:
    """Return what ``modalities.json`` holds of a case.

    Args:
        source_labels: it is written with label values of the data set's source.
    """
    entry: dict[str, Any] = {**result.use.to_json(), **({SOURCE_LABELS_KEY: True} if source_labels else {})}
    if result.agreement:
        entry[FOLD_AGREEMENT_KEY] = {region: round(dice, 4) for region, dice in result.agreement.items()}
    if result.expected:
        entry[EXPECTED_KEY] = {region: found.to_json() for region, found in result.expected.items()}
    return entry


def write_segmentation(
    result: Segmentation,
    output: Output,
    model: ModelFolder,
    writer: BaseReaderWriter,
    beside: Callable[[Segmentation, Path], None] | None = None,
) -> Segmentation:
    """Write one case: probabilities first, then its entry in ``modalities.json``, the segmentation last.

    So whoever finds a segmentation finds the rest as well, whenever the process was killed.

    Args:
        beside: called with the segmentation and its file, which is complete but has not its name yet: for
            what else is to be there.

    Returns:
        The case without probabilities, label values as they were written.
    """
    if output.source_labels:
        result = replace(result, array=to_source_labels(result.array, model.dataset_json))
    if output.probabilities:
        assert result.probabilities is not None, "the predictor keeps what the output asks for"
        with atomic_path(output.folder / f"{result.name}.npz") as temporary:
            np.savez_compressed(temporary, probabilities=result.probabilities)
        with atomic_path(output.folder / f"{result.name}.pkl") as temporary:
            temporary.write_bytes(pickle.dumps(result.properties))
        result = replace(result, probabilities=None)
    entry = entry_of(result, source_labels=output.source_labels)
    target = output.target(result.name)
    with atomic_path(target, replacing=recorded(output.folder, result.name, entry)) as temporary:
        names = named_labels(model.dataset_json, source_labels=output.source_labels)
        _write(result, temporary, target, writer, names)
        if beside is not None:
            beside(result, temporary)
    return result


def _write(
    result: Segmentation, temporary: Path, target: Path, writer: BaseReaderWriter, names: Sequence[NamedLabel]
) -> None:
    """Let nnU-Net write, and see that it did: image libraries do not notice every short write."""
    aside = temporary.with_suffix(".json")  # where nnU-Net's writer of tif keeps the spacing
    plain = temporary_beside(target)
    try:
        if is_nifti_name(target.name):
            writer.write_seg(result.array, str(plain), result.properties)
            add_label_table(plain, temporary, names)
            count_non_finite(temporary)  # reads to the end
        else:
            writer.write_seg(result.array, str(temporary), result.properties)
        if aside.exists():
            os.replace(aside, target.with_suffix(".json"))
    except (MSTKDError, RuntimeError) as error:
        free = shutil.disk_usage(target.parent).free // 2**20
        raise MSTKDError(
            f"cannot write {target}: it came out incomplete; is the disk full ({free} MiB free)?"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)


def write_model_files(output: Output, model: ModelFolder) -> None:
    """Put dataset.json and plans.json beside the segmentations, as nnU-Net does for its later steps.

    Not with source labels: those steps would read the values by the wrong list.
    """
    if not output.source_labels:
        write_json(model.dataset_json, output.folder / "dataset.json")
        write_json(model.plans, output.folder / "plans.json")
