"""Everything beside the segmentations of a folder: case by case while it is predicted, or afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from nnunetv2_mstkd.datasets.regions import label_values, regions_in_files, regions_of
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.report.methods_text import METHODS_TEXT
from nnunetv2_mstkd.files import locked_folder
from nnunetv2_mstkd.inference.folder import one_line
from nnunetv2_mstkd.inference.records import read_records
from nnunetv2_mstkd.inference.writing import PREVIEWS, SOURCE_LABELS_KEY, entry_of
from nnunetv2_mstkd.outputs.case import (
    ONLY_STATISTICS,
    UNFINISHED,
    MeasuredCase,
    SegmentedCase,
    Wanted,
    due_beside,
    is_described,
    measure_case,
    write_beside,
)
from nnunetv2_mstkd.outputs.page import PAGE_FILE, write_page
from nnunetv2_mstkd.outputs.preview import preview_file
from nnunetv2_mstkd.outputs.run_text import write_run_text
from nnunetv2_mstkd.outputs.statistics_file import STATISTICS_FILE, Statistics, add_entry, read_statistics
from nnunetv2_mstkd.outputs.table import TABLE_FILE, write_table

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.discovery import Case
    from nnunetv2_mstkd.inference.predictor import Segmentation

logger = logging.getLogger(__name__)

Images = Mapping[str, Path]


class FolderOutputs:
    """The statistics, masks and previews of a folder of segmentations.

    :meth:`add` may be called from several threads; several runs may work on one folder.

    Attributes:
        problems: case → why something beside its segmentation is not there.
    """

    def __init__(
        self,
        folder: Path,
        dataset_json: Mapping[str, Any],
        wanted: Wanted = ONLY_STATISTICS,
        *,
        source_labels: bool = False,
        run: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """Keep what is needed; nothing is read or written yet.

        Args:
            folder: with the segmentations.
            dataset_json: of the model or the data set.
            wanted: what is made beside the statistics.
            source_labels: cases of :meth:`add`, and those that ``modalities.json`` does not list, have label
                values of the data set's source.
            run: describes what segments the cases of :meth:`add`; called once, with the first one.
        """
        self.problems: dict[str, str] = {}
        self._folder, self._dataset_json, self._wanted = folder, dataset_json, wanted
        self._ending = str(dataset_json["file_ending"])
        self._source_labels = source_labels
        self._describe_run, self._lock = run, Lock()

    def check(self) -> None:
        """Refuse a folder in which files of somebody else have the names of ours.

        Raises:
            MSTKDError: naming one.
        """
        if (self._folder / STATISTICS_FILE).exists():
            read_statistics(self._folder)
            return
        for name in (TABLE_FILE, PAGE_FILE, METHODS_TEXT):
            if (self._folder / name).exists():
                raise MSTKDError(f"{self._folder / name} is not written by nnUNetv2_mstkd; move it away")

    def add(self, case: Case, segmentation: Segmentation, file: Path) -> None:
        """Describe a case that was just segmented, before its file takes its name.

        A failure is noted in ``problems`` and costs no segmentation.

        Args:
            case: with its images.
            segmentation: what was found.
            file: the segmentation as it was written, under a temporary name.
        """
        try:
            with self._lock:
                run = self._run
            use = entry_of(segmentation, source_labels=self._source_labels)
            segmented = self._segmented(case.name, file, use, case.images)
            measured = measure_case(segmented)
            self._describe(segmented, measured, {**measured.entry, "changed": False}, run)
        except Exception as error:
            logger.debug("case %s", case.name, exc_info=error)
            self.problems[case.name] = f"segmented, but not described: {one_line(error)}"

    @cached_property
    def _run(self) -> dict[str, Any] | None:
        return None if self._describe_run is None else self._describe_run()

    def complete(self, images: Mapping[str, Images], *, again: bool = False) -> int:
        """Describe segmentations that are in the folder already, where anything is missing or out of date.

        Args:
            images: case → its images by modality; which may be none.
            again: describe them all.

        Returns:
            How many were described.
        """
        statistics, records, count = read_statistics(self._folder), read_records(self._folder), 0
        for name, files in images.items():
            file = self._folder / f"{name}{self._ending}"
            try:
                segmented = self._segmented(name, file, records.get(name), files)
                entry = statistics.cases.get(name)
                if again or not is_described(segmented, self._folder, entry, self._wanted):
                    self._describe_anew(segmented, statistics)
                    count += 1
            except Exception as error:
                logger.debug("case %s", name, exc_info=error)
                self.problems[name] = one_line(error)
        return count

    def _describe_anew(self, case: SegmentedCase, statistics: Statistics) -> None:
        """Replace a case's entry; what segmented it is kept, whether it was changed since is found out."""
        old, measured = statistics.cases.get(case.name), measure_case(case)
        new = measured.entry
        same = old is not None and old.get("sha256") == new["sha256"]
        changed = old is not None and (bool(old.get("changed")) or not same)
        if changed:  # what was expected, was of the segmentation that the model made
            for region in new["regions"].values():
                region["expected"] = None
        run = None if old is None else statistics.run_of(case.name)
        self._describe(case, measured, {**new, "changed": changed}, run)
        if not (same or case.shown) and preview_file(self._folder, case.name).exists():
            raise MSTKDError("measured, but its preview shows an earlier segmentation; give -i SRC")

    def _describe(
        self,
        case: SegmentedCase,
        measured: MeasuredCase,
        entry: Mapping[str, Any],
        run: Mapping[str, Any] | None,
    ) -> None:
        """Store an entry, then write what is beside it: a picture that fails costs no number."""
        due = due_beside(case, self._folder, self._wanted)
        if due == ONLY_STATISTICS:
            add_entry(self._folder, case.name, entry, run)
            return
        add_entry(self._folder, case.name, {**entry, UNFINISHED: True}, run)
        write_beside(case, self._folder, due, measured)
        add_entry(self._folder, case.name, entry, run)

    def _segmented(
        self, name: str, file: Path, use: Mapping[str, Any] | None, images: Images
    ) -> SegmentedCase:
        source_labels = self._source_labels if use is None else bool(use.get(SOURCE_LABELS_KEY))
        regions = regions_in_files(self._dataset_json, source_labels=source_labels)
        values = label_values(self._dataset_json, source_labels=source_labels)
        return SegmentedCase(name, file, self._ending, regions, values, use, images)

    def write(self) -> None:
        """Write what is made of all cases together: table, text, and the page where there are previews.

        Raises:
            MSTKDError: the disk is full, over quota, read-only or broken.
        """
        if not (self._folder / STATISTICS_FILE).exists():
            return
        with locked_folder(self._folder):
            statistics = read_statistics(self._folder)
            write_table(statistics, self._folder)
            write_run_text(statistics, self._folder)
        if (self._folder / PREVIEWS).is_dir():
            # One writer at a time, so that the last has seen all; the folder itself stays free for cases.
            with locked_folder(self._folder / PREVIEWS):
                write_page(read_statistics(self._folder), list(regions_of(self._dataset_json)), self._folder)


def segmentations(folder: Path, file_ending: str) -> Iterable[str]:
    """Names of the cases whose segmentations are in a folder, sorted."""
    files = folder.glob(f"*{file_ending}") if folder.is_dir() else ()
    return sorted(p.name.removesuffix(file_ending) for p in files if p.name[0] != "." and p.is_file())
