"""Scoring a segmentation: here, beside the network, or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunetv2_mstkd.datasets.regions import is_flat
from nnunetv2_mstkd.datasets.volumes import check_case
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.lesionwise import RULES
from nnunetv2_mstkd.evaluation.metrics.scores import score_arrays
from nnunetv2_mstkd.evaluation.record.score_store import SubsetScores
from nnunetv2_mstkd.evaluation.scoring.label_files import DIMENSIONS, LabelFile
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase


@dataclass(frozen=True)
class Criteria:
    """What is scored.

    Attributes:
        regions: region → its label values.
        ignore: label of voxels that count nowhere, or None.
        lesionwise: name of the lesion-wise rules, or None for none.
    """

    regions: Mapping[str, tuple[int, ...]]
    ignore: int | None = None
    lesionwise: str | None = None

    @property
    def known(self) -> frozenset[int]:
        """The values that a segmentation may have."""
        listed = {value for values in self.regions.values() for value in values}
        return frozenset({0, *listed, *(() if self.ignore is None else (self.ignore,))})

    def score(self, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> SubsetScores:
        """Compare two label arrays (Z, Y, X) with the spacing of their axes in mm.

        A 2D image, as nnU-Net's readers give it (1, Y, X), is compared in 2D.
        """
        if is_flat(reference.shape, spacing) and prediction.shape == reference.shape:
            prediction, reference, spacing = prediction[0], reference[0], spacing[1:]
        rules = None if self.lesionwise is None else RULES[self.lesionwise]
        regions = score_arrays(
            prediction, reference, spacing, self.regions, ignore=self.ignore, lesion_rules=rules
        )
        ignored = 0 if self.ignore is None else int((reference == self.ignore).sum())
        return SubsetScores(int(reference.size) - ignored, regions)


@dataclass(frozen=True)
class FileJob:
    """A segmentation on disk to be scored, wherever the job runs.

    Attributes:
        prediction: the segmentation.
        case: with the reference.
        criteria: what is scored.
        reader: nnU-Net's reader class of the data set.
    """

    prediction: LabelFile
    case: ReferenceCase
    criteria: Criteria
    reader: type

    def run(self) -> SubsetScores:
        """Read both files and compare them.

        Raises:
            MSTKDError: a file cannot be read, has values that the data set does not have, or the two are on
                different grids.
        """
        files = {"segmentation": self.prediction.path, "reference": self.case.reference}
        check_case(files, dimensions=DIMENSIONS)
        reference, spacing = self.case.labels.read(self.reader, self.criteria.known)
        prediction, _ = self.prediction.read(self.reader, self.criteria.known)
        return self.criteria.score(prediction, reference, spacing)


@dataclass(frozen=True)
class Runner:
    """Runs jobs and waits for each; any number of threads may call it.

    Attributes:
        run: runs one job.
        at_once: how many jobs run side by side elsewhere; None where the caller's threads are what runs them.
    """

    run: Callable[[FileJob], SubsetScores]
    at_once: int | None = None

    def __call__(self, job: FileJob) -> SubsetScores:
        return self.run(job)


@contextmanager
def runner(address: str | None) -> Iterator[Runner]:
    """Open what scores files: the calling thread, or the workers of a Dask cluster.

    Args:
        address: ``dask://HOST:PORT`` of a scheduler whose workers see the same files and have this package;
            None scores here.

    Raises:
        MSTKDError: the address is none, the cluster does not answer, or ``distributed`` is not installed.
    """
    if address is None:
        yield Runner(FileJob.run)
        return
    with closing(_dask_client(address)) as client:
        executor: Executor = client.get_executor(pure=False)
        threads = sum(client.nthreads().values())
        # None where the cluster has no workers yet and will start them on demand.
        yield Runner(lambda job: executor.submit(FileJob.run, job).result(), threads or None)


def _dask_client(address: str) -> Any:
    scheme, _, location = address.partition("://")
    if scheme != "dask" or not location:
        raise MSTKDError(f"--executor '{address}' is not understood; give dask://HOST:PORT of a scheduler")
    try:
        from distributed import Client
    except ImportError:
        raise MSTKDError("--executor dask:// needs distributed; pip install distributed") from None
    try:
        return Client(f"tcp://{location}", timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise MSTKDError(f"no Dask scheduler answers at {location} ({type(error).__name__})") from None
