"""What the modality mask costs the loader: its part of the time, and of the bytes that leave it.

A synthetic case, preprocessed as nnU-Net leaves it, goes through nnU-Net's own training transforms: in turns
by ``MaskedPatchLoader``, built as a training builds it, and by stock ``nnUNetDataLoader``. Both draw the same
random numbers, so both make the same patches.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks.harness import parser, publish, report, table
from benchmarks.nnunet_folders import nnunet_folders
from benchmarks.plans import CONFIGURATION, DATASET, MODALITIES, mstkd_architecture, plans
from nnunetv2_mstkd.environment import quiet
from nnunetv2_mstkd.methods.baselines import nnUNetTrainerModalityDropout
from nnunetv2_mstkd.trainers.data_loader import MaskedPatchLoader
from nnunetv2_mstkd.trainers.generators import build_generators
from nnunetv2_mstkd.transforms import SubsetSampler

SHAPE, PATCH, BATCH = (160,) * 3, (128,) * 3, 2
_REGIONS = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
_CASES = ("case_0", "case_1")
Batch = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    described = "Time and bytes that the modality mask adds to the loader."
    options = parser("loader", described, devices=("cpu",), repeats=20)
    add = options.add_argument
    add("--shape", type=int, nargs=3, default=SHAPE, metavar="N", help="of the case, voxels")
    add("--patch", type=int, nargs=3, default=PATCH, metavar="N", help="voxels")
    add("--absent", type=int, default=1, choices=range(4), help="modalities that the case lacks (default 1)")
    add("--batch", type=int, default=BATCH, metavar="N", help=f"patches in a batch (default {BATCH})")
    args = options.parse_args(arguments)
    with loaders(tuple(args.shape), tuple(args.patch), args.batch, args.absent) as (ours, stock):
        results = measure(ours, stock, args.repeats)
    case = {"shape": args.shape, "patch": args.patch, "batch_size": args.batch}
    case |= {"channels": len(MODALITIES), "absent": args.absent}
    content = report("loader", args.device, {"case": case, **results})
    publish(content, _table(results), args.json)
    return 0


# ---------------------------------------------------------------- the two loaders


@contextmanager
def loaders(
    shape: tuple[int, ...], patch: tuple[int, ...], batch_size: int, absent: int = 0
) -> Iterator[tuple[MaskedPatchLoader, nnUNetDataLoader]]:
    """This plugin's training loader and nnU-Net's, for the same case, transforms and patches.

    Args:
        shape: of the case, voxels.
        patch: voxels.
        batch_size: patches.
        absent: modalities that the case lacks, the last ones.
    """
    dataset = _dataset_json(absent)
    with nnunet_folders(nnUNet_n_proc_DA="0") as folders:
        content = plans(mstkd_architecture(patch, first_features=4), patch, batch_size)
        _write_cases(folders.preprocessed / DATASET, content, shape, len(MODALITIES) - absent)
        with quiet():
            ours = _training_loader(content, dataset)
        transforms, masking = ours.transforms.pipeline.transforms
        stock = nnUNetDataLoader(
            ours._data,
            batch_size,
            ours.patch_size,
            ours.final_patch_size,
            PlansManager(content).get_label_manager(dataset),
            oversample_foreground_percent=ours.oversample_foreground_percent,
            transforms=_DrawsAlike(transforms, masking.sampler, ours.transforms.available[_CASES[0]]),
        )
        yield ours, stock


def _training_loader(content: dict[str, Any], dataset: dict[str, Any]) -> MaskedPatchLoader:
    """As ``nnUNetv2_train`` would have it."""
    given = json.loads(json.dumps(content)) | {"continue_training": False}
    trainer = nnUNetTrainerModalityDropout(given, CONFIGURATION, 0, dataset, torch.device("cpu"))
    trainer.initialize()
    return build_generators(trainer)[0].data_loader


class _DrawsAlike:
    """nnU-Net's transforms, and after each sample the random number that the masking would have drawn."""

    def __init__(
        self, transforms: Callable[..., Any], sampler: SubsetSampler, available: Sequence[bool]
    ) -> None:
        self._transforms = transforms
        self._sampler = sampler
        self._available = np.asarray(available, dtype=bool)

    def __call__(self, **sample: Any) -> dict[str, Any]:
        result = self._transforms(**sample)
        self._sampler.sample(self._available)
        return result


def _dataset_json(absent: int) -> dict[str, Any]:
    lacks = list(MODALITIES[len(MODALITIES) - absent :])
    return {
        "channel_names": {str(channel): name for channel, name in enumerate(MODALITIES)},
        "labels": _REGIONS,
        "regions_class_order": [2, 1, 3],
        "numTraining": len(_CASES),
        "file_ending": ".nii.gz",
        # Nothing is read to find it out.
        "mstkd": {"patients": dict(zip(_CASES, _CASES, strict=True)), "incomplete_cases": {_CASES[0]: lacks}},
    }


def _write_cases(base: Path, content: dict[str, Any], shape: tuple[int, ...], present: int) -> None:
    """Two cases: noise in a ball with a tumour of three labels, nothing (label -1) around it."""
    configuration = content["configurations"][CONFIGURATION]
    folder = base / configuration["data_identifier"]
    folder.mkdir(parents=True)
    (base / "splits_final.json").write_text(json.dumps([{"train": _CASES[:1], "val": _CASES[1:]}]))
    (base / "dataset_fingerprint.json").write_text("{}")
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    radius = np.sqrt(sum(axis**2 for axis in axes))
    segmentation = np.where(radius < 0.95, 0, -1).astype(np.int16)[None]
    for label, size in ((2, 0.5), (3, 0.35), (1, 0.2)):
        segmentation[0, radius < size] = label
    rng = np.random.default_rng(0)
    locations = {
        label: rng.permutation(np.argwhere(np.isin(segmentation, label)))[:10000]
        for label in (1, 2, 3, (1, 2, 3), (1, 3))
    }
    properties = {"class_locations": locations, "spacing": [1.0] * 3}
    for case in _CASES:
        data = rng.standard_normal((len(MODALITIES), *shape), dtype=np.float32) * (segmentation >= 0)
        data[present:] = 0
        blocks, chunks = comp_blosc2_params(data.shape, configuration["patch_size"], data.itemsize)
        of_segmentation = comp_blosc2_params(segmentation.shape, configuration["patch_size"], 2)
        sizes = {"chunks": chunks, "blocks": blocks, "blocks_seg": of_segmentation[0]}
        sizes["chunks_seg"] = of_segmentation[1]
        nnUNetDatasetBlosc2.save_case(data, segmentation, properties, str(folder / case), **sizes)


# ---------------------------------------------------------------- measuring


class Stopwatch:
    """A function or a callable object, with the seconds that its calls have taken."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def measure(ours: MaskedPatchLoader, stock: nnUNetDataLoader, repeats: int) -> dict[str, Any]:
    """Batches of both in turns, each pair from one seed; what is ours in the time of a batch.

    Whoever is the first to make a batch pays for more than the batch: blurs and zooms of a shape that was not
    drawn before are prepared by torch, which may take longer than the batch. So a seed's first is not timed.
    """
    rows = []
    for turn in range(repeats):
        _seed(turn)
        stock.generate_train_batch()
        _seed(turn)
        row, batch = _timed_batch(ours)
        _seed(turn)
        start = time.perf_counter()
        stock_batch = stock.generate_train_batch()
        row["stock"] = time.perf_counter() - start
        rows.append(row)
    seconds = {part: [row[part] for row in rows] for part in rows[0]}
    return {
        "seconds": seconds,
        "median": {part: statistics.median(values) for part, values in seconds.items()},
        "mask_share": statistics.median(row["mask"] / row["masked"] for row in rows),
        "to_stock": statistics.median(row["masked"] / row["stock"] for row in rows),
        "bytes": {"masked": tensor_bytes(batch), "stock": tensor_bytes(stock_batch)},
    }


def _seed(turn: int) -> None:
    np.random.seed(turn)
    torch.manual_seed(turn)


def _timed_batch(loader: MaskedPatchLoader) -> tuple[dict[str, float], Batch]:
    """Seconds of one batch: all of it, and what of that neither nnU-Net's loader nor its transforms took.

    ``mask`` is the masking transform, the wrapper that hands in availability and keeps the masks, and
    putting them into the batch.
    """
    recording = loader.transforms
    compose = recording.pipeline
    wrapper, transforms = Stopwatch(recording), Stopwatch(compose.transforms[0])
    batch_of_nnunet = Stopwatch(nnUNetDataLoader.generate_train_batch)
    with (
        mock.patch.object(loader, "transforms", wrapper),
        mock.patch.object(compose, "transforms", [transforms, *compose.transforms[1:]]),
        mock.patch.object(nnUNetDataLoader, "generate_train_batch", lambda self: batch_of_nnunet(self)),
    ):
        start = time.perf_counter()
        batch = loader.generate_train_batch()
        total = time.perf_counter() - start
    around = total - batch_of_nnunet.seconds
    mask = around + wrapper.seconds - transforms.seconds
    return {"masked": total, "mask": mask, "transforms": transforms.seconds}, batch


def tensor_bytes(batch: Batch) -> dict[str, int]:
    """Bytes of the memory behind a batch's tensors, per entry (a list counts as a whole)."""
    sizes = {}
    for name, value in batch.items():
        tensors = [t for t in (value if isinstance(value, list) else [value]) if isinstance(t, torch.Tensor)]
        memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        if tensors:
            sizes[name] = sum(memory.values())
    return sizes


def _table(results: Mapping[str, Any]) -> str:
    median, sizes = results["median"], results["bytes"]
    rows = [
        (name, f"{1000 * median[key]:.2f}", f"{median[key] / median['masked']:.2%}")
        for name, key in (
            ("a batch with masks", "masked"),
            ("of it: nnU-Net's transforms", "transforms"),
            ("of it: the mask", "mask"),
            ("a batch of stock nnUNetDataLoader", "stock"),
        )
    ]
    extra = sum(sizes["masked"].values()) - sum(sizes["stock"].values())
    listed = ", ".join(f"{name} {size}" for name, size in sizes["masked"].items())
    return "\n".join(
        (
            table(("median of the batches", "ms", "of a batch with masks"), rows),
            f"the mask's share, median of the batches: {results['mask_share']:.3%}",
            f"a batch with masks to stock's of the same seed, median: {results['to_stock']:.3f}",
            f"bytes of a batch: {listed}; more than stock's: {extra}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
