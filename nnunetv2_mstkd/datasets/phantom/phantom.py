"""The built-in data set: synthetic patients in BraTS 2023 folders.

Nothing here is a patient. The demo and the tests use it, so that they enter by the same door as real data.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.datasets.phantom.anatomy import LABELS, Grid, add_tumour, brain_tissues
from nnunetv2_mstkd.datasets.phantom.images import acquire
from nnunetv2_mstkd.datasets.volumes import Geometry, image_on_grid, write_image
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import DESKTOP_FILES, sweep_leftovers, writable_folder
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

SMALLEST_AXIS, LARGEST_AXIS = 24, 512
MOST_CASES = 10_000  # the case number has four digits behind the 9 that marks a phantom
_PHANTOM_NAME = re.compile(r"BraTS-GLI-9\d{4}-000")


@dataclass(frozen=True)
class PhantomCase:
    """A synthetic patient; arrays are indexed (x, y, z), 1 mm voxels.

    Attributes:
        name: BraTS 2023 case id.
        images: modality → int16 image.
        segmentation: uint8, 1 necrosis, 2 edema, 3 enhancing.
        tissues: uint8, values of ``Tissue``.
    """

    name: str
    images: dict[str, np.ndarray]
    segmentation: np.ndarray
    tissues: np.ndarray


def phantom_case(seed: int, index: int, shape: tuple[int, int, int]) -> PhantomCase:
    """Case ``index`` of the phantom ``seed``, the same whatever the number of cases."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    grid = Grid(shape)
    tissues = add_tumour(rng, grid, brain_tissues(rng, grid))
    segmentation = np.zeros(shape, dtype=np.uint8)
    for tissue, label in LABELS.items():
        segmentation[tissues == tissue] = label
    return PhantomCase(f"BraTS-GLI-{90000 + index}-000", acquire(rng, grid, tissues), segmentation, tissues)


def missing_modalities(seed: int, index: int, fraction: float) -> frozenset[str]:
    """Which sequences case ``index`` lacks: each with probability ``fraction``, never all four."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, 1]))
    absent = [name for name in BRATS_MODALITIES if rng.random() < fraction]
    if len(absent) == len(BRATS_MODALITIES):
        absent.pop(rng.integers(len(absent)))
    return frozenset(absent)


@dataclass(frozen=True)
class _Job:
    output: Path
    seed: int
    index: int
    shape: tuple[int, int, int]
    missing: float


def write_phantom(
    output: Path,
    *,
    cases: int,
    shape: Sequence[int],
    seed: int,
    missing: float = 0.0,
    overwrite: bool = False,
    num_processes: int = 1,
) -> list[Path]:
    """Write the phantom as BraTS 2023 case folders.

    Args:
        output: folder for the case folders; must be empty or absent.
        cases: number of patients.
        shape: voxels along x, y, z, at least 24 each.
        seed: same seed, same voxels.
        missing: probability with which a sequence file is left out.
        overwrite: replace phantom cases that are in ``output``.
        num_processes: processes that make cases.

    Returns:
        The case folders.

    Raises:
        MSTKDError: a value out of range, or a folder that cannot be used.
    """
    _check(cases, shape, seed, missing)
    _prepare(output, overwrite=overwrite)
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    jobs = [_Job(output, seed, index, size, missing) for index in range(cases)]
    return run_all(_write_case, jobs, num_processes=num_processes, title="phantom")


def _check(cases: int, shape: Sequence[int], seed: int, missing: float) -> None:
    if not 1 <= cases <= MOST_CASES:
        raise MSTKDError(f"--cases {cases} is out of range; choose 1 to {MOST_CASES}")
    if len(shape) != 3 or not SMALLEST_AXIS <= min(shape) <= max(shape) <= LARGEST_AXIS:
        text = " ".join(map(str, shape))
        raise MSTKDError(f"--shape {text}: give three sizes of {SMALLEST_AXIS} to {LARGEST_AXIS} voxels")
    if seed < 0:
        raise MSTKDError(f"--seed {seed} is negative; choose 0 or more")
    if not 0 <= missing < 1:
        raise MSTKDError(f"--missing {missing} is no probability below 1; choose e.g. 0.3")


def _prepare(output: Path, *, overwrite: bool) -> None:
    """Make the folder, and clear it of an earlier phantom; anything else in it is left alone and refused."""
    if output.exists() and not output.is_dir():
        raise MSTKDError(f"{output} is a file; give a folder")
    if output.is_dir():
        sweep_leftovers(output)
    found = sorted(output.iterdir()) if output.is_dir() else []
    present = [p for p in found if p.name not in DESKTOP_FILES]
    foreign = [p for p in present if not _PHANTOM_NAME.fullmatch(p.name) or p.is_symlink() or not p.is_dir()]
    if foreign:
        raise MSTKDError(f"{output} is not empty (it holds {foreign[0].name}); choose another folder")
    if present and not overwrite:
        raise MSTKDError(f"{output} holds a phantom already; use --overwrite to replace it")
    for folder in present:
        ours = {f"{folder.name}-{name}.nii.gz" for name in (*BRATS_MODALITIES, "seg")}
        lost = sorted(p.name for p in folder.iterdir() if p.name not in (*ours, *DESKTOP_FILES))
        if lost:
            raise MSTKDError(f"{folder} also holds {lost[0]}, which would be lost; move that away first")
    writable_folder(output)
    for folder in present:
        shutil.rmtree(folder)


def _write_case(job: _Job) -> Path:
    case = phantom_case(job.seed, job.index, job.shape)
    # As BraTS files have it: 1 mm, and an origin that puts the last row at y = 0.
    origin = (0.0, 1.0 - job.shape[1], 0.0)
    geometry = Geometry(job.shape, (1.0, 1.0, 1.0), origin, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    target = job.output / case.name
    absent = missing_modalities(job.seed, job.index, job.missing)
    volumes = {name: array for name, array in case.images.items() if name not in absent}
    with replacing_folder(target) as folder:
        for name, array in {**volumes, "seg": case.segmentation}.items():
            contiguous = np.ascontiguousarray(array.transpose())  # SimpleITK indexes (z, y, x)
            write_image(image_on_grid(contiguous, geometry), folder / f"{case.name}-{name}.nii.gz")
    return target
