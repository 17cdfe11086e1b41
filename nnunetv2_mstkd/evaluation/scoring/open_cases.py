"""Reading and preprocessing a case once for all subsets of its modalities.

A subset of a case is the case in which the other files are absent: nnU-Net crops to where any channel that is
there is nonzero, normalises each channel alone, and resamples. So the subsets share what was preprocessed
from all files, with zeros for what they lack, as long as their nonzero area is the same. Where it is not (a
sequence with a larger field of view, say), the subset is preprocessed on its own. Either way the network sees
exactly what it would see of a folder without those files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from threading import Lock

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

from nnunetv2_mstkd.datasets.volumes import check_case
from nnunetv2_mstkd.evaluation.scoring.label_files import DIMENSIONS
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor, Preprocessed
from nnunetv2_mstkd.inference.reading import CaseVolumes, LooseCase
from nnunetv2_mstkd.inference.selection import ModalityUse
from nnunetv2_mstkd.modalities import Subset


class OpenCase:
    """One case in memory: its volumes, what was preprocessed from all of them, its reference."""

    def __init__(
        self, case: ReferenceCase, predictor: MissingModalityPredictor, known: Collection[int]
    ) -> None:
        self.case = case
        self._predictor, self._known = predictor, known
        self._lock = Lock()
        self._volumes: CaseVolumes | None = None
        self._whole: Preprocessed | None = None
        self._reference: np.ndarray | None = None
        self._shown: np.ndarray | None = None  # (C, Z, Y, X) bool
        self._failure: Exception | None = None

    def available(self) -> Subset:
        """Return the modalities whose image is there and shows something."""
        return frozenset(self._read()[0].use.used)

    def preprocessed(self, subset: Subset) -> Preprocessed:
        """Return what the network sees of the case when only ``subset`` is there.

        Args:
            subset: a part of :meth:`available`.
        """
        volumes, whole = self._read()
        use = _use_of(volumes.use, subset, self._predictor.modalities)
        absent = [i for i, name in enumerate(self._predictor.modalities) if name not in subset]
        if not self._same_area(volumes.data, absent):
            data = volumes.data.copy()
            data[absent] = 0
            return self._predictor.preprocess(CaseVolumes(volumes.name, data, dict(volumes.properties), use))
        seen = whole.data.clone()
        seen[absent] = 0
        return replace(whole, data=seen, use=use, properties=dict(whole.properties))

    def reference(self) -> np.ndarray:
        """Read the reference labels (Z, Y, X) in the values of the model's data set.

        Raises:
            MSTKDError: it cannot be read, is on another grid, or has values that the data set does not have.
        """
        with self._lock:
            if self._reference is None:
                reader = self._predictor.predictor.plans_manager.image_reader_writer_class
                files = {"reference": self.case.reference, "image": next(iter(self.case.images.values()))}
                check_case(files, dimensions=DIMENSIONS)
                self._reference, _ = self.case.labels.read(reader, self._known)
        return self._reference

    def _read(self) -> tuple[CaseVolumes, Preprocessed]:
        with self._lock:
            if self._failure is not None:
                raise self._failure  # once read in vain, not for every subset again
            if self._volumes is None or self._whole is None:
                try:
                    volumes = self._predictor.read(LooseCase(self.case.name, self.case.images))
                    # nnU-Net writes what it finds out into the properties.
                    own = replace(volumes, properties=dict(volumes.properties))
                    self._whole, self._volumes = self._predictor.preprocess(own), volumes
                except Exception as error:
                    self._failure = error
                    raise
            return self._volumes, self._whole

    def _same_area(self, data: np.ndarray, absent: Sequence[int]) -> bool:
        """Say whether nnU-Net crops to the same area (and normalises within it) without some channels."""
        if not absent:
            return True
        with self._lock:
            if self._shown is None:
                self._shown = data != 0
        present = [i for i in range(len(data)) if i not in absent]
        if np.array_equal(self._shown[present].any(axis=0), self._shown.any(axis=0)):
            return True  # without the seconds that filling of holes takes
        return np.array_equal(create_nonzero_mask(data[present]), create_nonzero_mask(data))


def _use_of(whole: ModalityUse, subset: Subset, modalities: Sequence[str]) -> ModalityUse:
    """Return the whole case's use of its modalities, when only ``subset`` is asked for."""
    ignored = {*whole.ignored, *(name for name in whole.used if name not in subset)}
    used = tuple(name for name in whole.used if name in subset)
    return ModalityUse(used, whole.absent, whole.constant, tuple(n for n in modalities if n in ignored))


class OpenCases:
    """The cases that are being worked on; each is let go with its last piece of work."""

    def __init__(
        self, predictor: MissingModalityPredictor, work: Iterable[str], known: Collection[int]
    ) -> None:
        """Keep what all cases share.

        Args:
            work: names a case once for each piece of work.
            known: the values that a reference may have.
        """
        self._predictor, self._known = predictor, known
        self._left = Counter(work)
        self._open: dict[str, OpenCase] = {}
        self._lock = Lock()

    def get(self, case: ReferenceCase) -> OpenCase:
        """Return the case, opened once."""
        with self._lock:
            if case.name not in self._open:
                self._open[case.name] = OpenCase(case, self._predictor, self._known)
            return self._open[case.name]

    def done(self, case: ReferenceCase) -> None:
        """Note that one piece of work on the case has ended."""
        with self._lock:
            self._left[case.name] -= 1
            if self._left[case.name] <= 0:
                self._open.pop(case.name, None)
